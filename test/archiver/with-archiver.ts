import { join } from 'node:path';
import { pino } from 'pino';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { FileWalArchiver, type FileWalArchiverSettings } from '../../src/archiver/file-wal-archiver.ts';
import type { ArchiveSummary } from '../../src/archiver/wal-archiver.ts';
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

/** The archiver of one incoming directory, without the configuration, the locks and the process around it. */
export interface TestArchiver extends TestStorage {
  readonly errorFiles: ErrorsDirectory;
  readonly logged: readonly Logged[];
  /** Another object for the same directories. */
  readonly archiver: (options?: ArchiverOptions) => FileWalArchiver;
  readonly archive: (options?: ArchiverOptions) => Promise<ArchiveSummary>;
}

export async function withArchiver<T>(
  defaults: ArchiverOptions,
  body: (archiver: TestArchiver) => Promise<T>,
): Promise<T> {
  return withStorage(defaults.storage ?? {}, async (storage) => {
    const logged: Logged[] = [];
    const logger = pino({ level: 'debug', base: null }, { write: (line) => logged.push(JSON.parse(line)) });
    const reasons = join(storage.home, storage.server, '.errors');
    const errorFiles = new ErrorsDirectory(defaults.errorsDirectory ?? storage.errors, reasons);
    const archiver = (more: ArchiverOptions = {}): FileWalArchiver => {
      const options = { ...defaults, ...more };
      return new FileWalArchiver(
        {
          server: 'main',
          strategy: storage.open(options.storage),
          errors: errorFiles,
          logger,
          incompleteTimeoutMs: options.incompleteTimeoutMs ?? 300_000,
          drain: options.drain,
        },
        {
          incoming: options.incoming ?? storage.incoming,
          batchSize: options.batchSize ?? 0,
          customMagic: options.customMagic,
        },
      );
    };
    return body({ ...storage, errorFiles, logged, archiver, archive: (options) => archiver(options).archive() });
  });
}
