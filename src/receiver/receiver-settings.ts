import type { ErrorsDirectory } from '../archiver/errors-directory.ts';
import type { SystemIdentity } from '../archiver/identity.ts';
import type { Logger } from '../logging.ts';
import type { PostgresSettings } from '../postgres/remote-status.ts';
import type { WalName } from '../wal/wal-name.ts';

/** What the receiver of one server works with; plain values, no configuration. */
export interface ReceiverSettings {
  readonly server: string;
  readonly postgres: PostgresSettings;
  readonly createSlot: 'manual' | 'auto';
  readonly pathPrefix: readonly string[] | null;
  readonly streamingDirectory: string;
  /** Where the archiver claims files of it. */
  readonly claims: string;
  /** `.<server>-receive-wal.lock`, which also holds the pid. */
  readonly lockPath: string;
  /** Where the {@link ReceiverReport} is written. */
  readonly reportPath: string;
  /** Old partial files go there. */
  readonly errors: ErrorsDirectory;
  readonly identity: SystemIdentity;
  /** `receive_wal_min_free` in bytes; null: as {@link spaceLimits} chooses. */
  readonly minFree: number | null;
  /** `receive_wal_stall_timeout` in milliseconds; 0: pg_receivewal is never taken for one that hangs. */
  readonly stallTimeoutMs: number;
  /** The newest segment of the catalogue; without it a gap before the first position can't be told. */
  readonly newestArchived?: () => Promise<WalName | null>;
  /** The plain bytes of an archived segment; null when it isn't archived. Throws when that can't be told. */
  readonly readArchived?: (name: WalName) => Promise<Buffer | null>;
  /** Those of these names that are archived. Throws when that can't be told. */
  readonly archivedAmong?: (names: readonly WalName[]) => Promise<ReadonlySet<WalName>>;
  readonly logger: Logger;
}
