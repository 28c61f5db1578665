import { readFile } from 'node:fs/promises';
import { replaceFile } from '../durable/durable-file.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { isSegmentSize, walKind } from '../wal/wal-name.ts';
import { readIdentity } from './identity.ts';

/**
 * The segment size of an archive in a bucket, in a small file: nobody should
 * wait for an endpoint that is away to learn a number that never changes. It
 * counts for one system identifier: pg_upgrade, which gives another one, is when
 * the size may change.
 */
export class RememberedSegmentSize {
  readonly #path: string;
  readonly #identityPath: string;
  readonly #logger: Logger;

  constructor(path: string, identityPath: string, logger: Logger) {
    this.#path = path;
    this.#identityPath = identityPath;
    this.#logger = logger;
  }

  /** Bytes; null when nothing is remembered of this cluster. Never rejects. */
  async read(): Promise<number | null> {
    try {
      const found: unknown = JSON.parse(await readFile(this.#path, 'utf8'));
      if (typeof found !== 'object' || found === null || !('systemid' in found) || !('segmentSize' in found))
        return null;
      const { systemid, segmentSize } = found;
      const identity = await readIdentity(this.#identityPath);
      if (identity === null || identity.systemid !== systemid) return null;
      return typeof segmentSize === 'number' && isSegmentSize(segmentSize) ? segmentSize : null;
    } catch {
      return null; // none yet, or damaged: it is found out anew
    }
  }

  /** Never rejects: what can't be remembered is asked again. */
  async write(segmentSize: number): Promise<void> {
    try {
      const identity = await readIdentity(this.#identityPath);
      if (identity === null) return;
      const text = `${JSON.stringify({ systemid: identity.systemid, segmentSize })}\n`;
      await replaceFile(this.#path, Buffer.from(text), { mode: 0o600 });
    } catch (error) {
      this.#logger.debug(`can't write ${this.#path}: ${messageOf(error)}`);
    }
  }
}

/** What lines of the catalogue tell of the segment size; null when none is of a segment that is stored as it is. */
export function plainSegmentSize(newest: readonly WalFileInfo[]): number | null {
  const isPlain = ({ name, size, compression, encryption }: WalFileInfo): boolean =>
    compression === null && encryption === null && walKind(name) === 'segment' && isSegmentSize(size);
  return newest.findLast(isPlain)?.size ?? null;
}
