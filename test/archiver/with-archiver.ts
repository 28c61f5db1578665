import { join } from 'node:path';
import { pino } from 'pino';
import { HeaderVerification } from '../../src/archiver/header-verification.ts';
import { RememberedSegmentSize } from '../../src/archiver/segment-size.ts';
import { WholeDeliveries } from '../../src/archiver/whole-deliveries.ts';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { FileWalArchiver, type FileWalArchiverSettings } from '../../src/archiver/file-wal-archiver.ts';
import { StreamingWalArchiver } from '../../src/archiver/streaming-wal-archiver.ts';
import type { ArchiveSummary, WalArchiverParts } from '../../src/archiver/wal-archiver.ts';
import { withStorage, type StorageOptions, type TestStorage } from '../storage/with-storage.ts';

export interface Logged {
  readonly level: number;
  readonly msg: string;
  readonly [fact: string]: unknown;
}

export interface ArchiverOptions extends Partial<FileWalArchiverSettings> {
  readonly storage?: StorageOptions;
  readonly errorsDirectory?: string;
  readonly incompleteTimeoutMs?: number;
  readonly drain?: AbortSignal;
}

/** The archivers of one server, without the configuration, the locks and the process around them. */
export interface TestArchiver extends TestStorage {
  readonly errorFiles: ErrorsDirectory;
  readonly logged: readonly Logged[];
  /** Where the streaming archiver remembers position markers. */
  readonly markerFile: string;
  /** Another object for the same directories. */
  readonly archiver: (options?: ArchiverOptions) => FileWalArchiver;
  readonly archive: (options?: ArchiverOptions) => Promise<ArchiveSummary>;
  readonly streamingArchiver: (options?: ArchiverOptions) => StreamingWalArchiver;
  readonly archiveStreamed: (options?: ArchiverOptions) => Promise<ArchiveSummary>;
}

export async function withArchiver<T>(
  defaults: ArchiverOptions,
  body: (archiver: TestArchiver) => Promise<T>,
): Promise<T> {
  return withStorage(defaults.storage ?? {}, async (storage) => {
    const logged: Logged[] = [];
    const logger = pino({ level: 'debug', base: null }, { write: (line) => logged.push(JSON.parse(line)) });
    const at = (name: string): string => join(storage.home, storage.server, name);
    const errorFiles = new ErrorsDirectory(defaults.errorsDirectory ?? storage.errors, at('.errors'));
    const markerFile = at('.streaming-marker.json');
    const partsOf = (options: ArchiverOptions): WalArchiverParts => ({
      server: 'main',
      strategy: storage.open(options.storage),
      errors: errorFiles,
      logger,
      getRemoteStatus: async () => ({ server: null, streaming: null, slot: null }),
      headers: new HeaderVerification(true, {
        configured: null,
        remembered: new RememberedSegmentSize(at('.segment-size.json'), at('identity.json'), logger),
        ask: async () => null,
      }),
      incompleteTimeoutMs: options.incompleteTimeoutMs ?? 300_000,
      drain: options.drain,
    });
    const archiver = (more: ArchiverOptions = {}): FileWalArchiver => {
      const options = { ...defaults, ...more };
      return new FileWalArchiver(partsOf(options), {
        incoming: options.incoming ?? storage.incoming,
        claims: storage.claims.incoming,
        batchSize: options.batchSize ?? 0,
        customMagic: options.customMagic,
        whole: new WholeDeliveries(at('.whole-deliveries'), logger),
      });
    };
    const streamingArchiver = (more: ArchiverOptions = {}): StreamingWalArchiver => {
      const options = { ...defaults, ...more };
      return new StreamingWalArchiver(partsOf(options), {
        streaming: storage.streaming,
        claims: storage.claims.streaming,
        batchSize: options.batchSize ?? 0,
        markerFile,
        receiver: { server: 'main', pathPrefix: null, lockPath: at('.lock'), reportPath: at('.receive-wal.json') },
      });
    };
    return body({
      ...storage,
      errorFiles,
      logged,
      markerFile,
      archiver,
      archive: (options) => archiver(options).archive(),
      streamingArchiver,
      archiveStreamed: (options) => streamingArchiver(options).archive(),
    });
  });
}
