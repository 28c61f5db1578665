import { lstat, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Unpacker } from '../../src/storage/unpacker.ts';
import { ShortDeliveries } from '../../src/archiver/short-deliveries.ts';
import { ShortSegments } from '../../src/archiver/short-segments.ts';
import { STRICT } from '../../src/storage/taking.ts';
import { Xlogdb } from '../../src/catalogue/xlogdb.ts';
import type { CompressionName } from '../../src/compression/codec.ts';
import { recogniseCompression } from '../../src/compression/codecs.ts';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import { claimDirectories, type ClaimDirectories } from '../../src/storage/claim.ts';
import { identityOf } from '../../src/storage/file-identity.ts';
import { LocalWalStorageStrategy, type LocalStorageSettings } from '../../src/storage/local-wal-storage-strategy.ts';
import { plainBytes, type ReadingKeys } from '../../src/storage/stored-content.ts';
import type {
  AcceptSystem,
  SaveOptions,
  SaveResult,
  WaitingWal,
  WalStorageStrategy,
} from '../../src/storage/wal-storage-strategy.ts';
import { toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { makeWal, type WalOptions } from '../support/make-wal.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';

export interface StorageOptions {
  readonly compression?: CompressionName | null;
  readonly encryption?: LocalStorageSettings['encryption'];
  readonly keys?: ReadingKeys;
  readonly hooks?: Partial<WalHooks>;
  readonly accept?: AcceptSystem;
  readonly onNoClaims?: (directory: string) => void;
  /** Where files are opened; in this thread without it. */
  readonly unpacker?: Unpacker;
}

/** A local archive, without the configuration and the process around it. */
export interface TestStorage extends TestHome {
  readonly catalogue: Xlogdb;
  readonly cataloguePath: string;
  readonly journalPath: string;
  readonly keys: ReadingKeys;
  readonly deliveries: ShortDeliveries;
  readonly claims: ClaimDirectories;
  /** Another object for the same archive, as another process has it. */
  readonly open: (options?: StorageOptions) => LocalWalStorageStrategy;
}

export const GO_ON = async (): Promise<{ outcome: 'continue'; reason: string }> => ({
  outcome: 'continue',
  reason: '',
});

export async function withStorage<T>(defaults: StorageOptions, body: (storage: TestStorage) => Promise<T>): Promise<T> {
  return withHome(async (home) => {
    const keys = defaults.keys ?? {};
    const journalPath = join(home.home, home.server, 'encrypted-wals.digests');
    const cataloguePath = join(home.wals, 'main-xlog.db');
    const opened: LocalWalStorageStrategy[] = [];
    const deliveries = new ShortDeliveries(join(home.home, home.server, '.short-segments.json'));
    const catalogue = new Xlogdb({
      path: cataloguePath,
      legacyPath: join(home.wals, 'xlog.db'),
      lockPath: join(home.home, '.main-xlogdb.lock'),
      migrate: false,
      logger: { warn: () => undefined, info: () => undefined },
      describeStored: (name) => open().describe(name),
    });
    const open = (options: StorageOptions = {}): LocalWalStorageStrategy => {
      const {
        compression = null,
        encryption = null,
        hooks,
        accept,
        unpacker: elsewhere,
        onNoClaims = () => undefined,
      } = { ...defaults, ...options };
      const strategy = new LocalWalStorageStrategy(
        {
          catalogue,
          hooks: { watches: () => true, before: GO_ON, after: GO_ON, ...hooks },
          accept: accept ?? (async () => null),
          nameOf: (wal) => shortSegments.nameOf(wal),
          rules: async () => STRICT,
          unpacker: elsewhere,
        },
        {
          walsDirectory: home.wals,
          digestJournal: journalPath,
          mode: 0o600,
          keptDirectory: `${home.errors}.kept`,
          workers: 0,
          compression:
            compression === null ? null : { compression, level: undefined, custom: (options.keys ?? keys).custom },
          encryption,
          keys: options.keys ?? keys,
          onNoHardLinks: () => undefined,
          onNoClaims,
        },
      );
      const unpacker =
        elsewhere ??
        new Unpacker({
          custom: (options.keys ?? keys).custom,
          segmentSize: async () => null,
          resident: false,
        });
      const shortSegments = new ShortSegments({
        strategy,
        streaming: home.streaming,
        claims: claimDirectories(join(home.home, home.server)).streaming,
        keys,
        unpacker,
        deliveries,
      });
      opened.push(strategy);
      return strategy;
    };
    try {
      const claims = claimDirectories(join(home.home, home.server));
      return await body({ ...home, claims, catalogue, cataloguePath, journalPath, keys, deliveries, open });
    } finally {
      for (const strategy of opened) await strategy.close();
    }
  });
}

/** A file as the queue would hand it out; `name` where the file has another one. */
export async function waiting(path: string, name?: WalName): Promise<WaitingWal> {
  const stat = await lstat(path, { bigint: true });
  const head = stat.isFile() ? (await readFile(path)).subarray(0, 64) : Buffer.alloc(0);
  const wal = name ?? walName(basename(path));
  const directory = dirname(path);
  const isClaim = basename(dirname(directory)) === '.claimed';
  return {
    name: wal,
    path,
    identity: identityOf(stat),
    claimed: isClaim || (name !== undefined && basename(path).startsWith('.walwarden-')),
    claimTo: isClaim ? path : join(dirname(directory), '.claimed', basename(directory), wal),
    changedMs: Number(stat.ctimeNs / 1_000_000n),
    plain: recogniseCompression(head) === null,
  };
}

/** Where files wait that were delivered to incoming, claimed ones included. */
export async function waitingIn(incoming: string): Promise<string[]> {
  const claims = claimDirectories(dirname(incoming)).incoming;
  const found = [incoming, claims].map(async (directory) => {
    const entries = await readdir(directory).catch(() => []);
    return entries.map((entry) => join(directory, entry));
  });
  return (await Promise.all(found)).flat();
}

export async function* queueOf(wals: Iterable<WaitingWal>): AsyncGenerator<WaitingWal> {
  yield* wals;
}

/** Saves files to the end; the results in the order in which they came. */
export async function saveAll(
  strategy: WalStorageStrategy,
  wals: readonly WaitingWal[],
  options: SaveOptions = {},
): Promise<SaveResult[]> {
  const results: SaveResult[] = [];
  for await (const result of strategy.save(queueOf(wals), { expected: wals.length, ...options })) results.push(result);
  return results;
}

/** Writes a segment into a directory and hands it out. */
export async function arrive(
  directory: string,
  options: WalOptions = {},
): Promise<{ wal: WaitingWal; name: WalName; bytes: Buffer; path: string }> {
  const { name, bytes } = makeWal(options);
  const path = join(directory, name);
  await mkdir(directory, { recursive: true });
  await writeFile(path, bytes, { mode: 0o600 });
  return { wal: await waiting(path), name, bytes, path };
}

/** The catalogue's lines as text. */
export async function linesOf(catalogue: Xlogdb): Promise<string[]> {
  const lines: string[] = [];
  for await (const info of catalogue.read()) lines.push(toXlogdbLine(info).trimEnd());
  return lines;
}

export async function namesOf(catalogue: Xlogdb): Promise<string[]> {
  return (await linesOf(catalogue)).map((line) => line.split('\t')[0] ?? '');
}

/** The plain bytes of a stored file; null when there is none. */
export async function plainOf(
  { keys }: { readonly keys: ReadingKeys },
  strategy: WalStorageStrategy,
  name: WalName,
): Promise<Buffer | null> {
  const stored = await strategy.read(name);
  return stored === null ? null : plainBytes(stored, name, keys);
}
