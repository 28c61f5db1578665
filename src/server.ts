import { join } from 'node:path';
import { ErrorsDirectory } from './archiver/errors-directory.ts';
import { FailedPasses } from './archiver/failed-passes.ts';
import { FileWalArchiver } from './archiver/file-wal-archiver.ts';
import { identityIn, newestHeader, readIdentity, SystemIdentity } from './archiver/identity.ts';
import { RefusedSegments } from './archiver/refused-segments.ts';
import { plainSegmentSize, RememberedSegmentSize } from './archiver/segment-size.ts';
import { ShortDeliveries } from './archiver/short-deliveries.ts';
import { ShortSegments } from './archiver/short-segments.ts';
import { StreamingWalArchiver } from './archiver/streaming-wal-archiver.ts';
import type { Told } from './archiver/told.ts';
import { UnknownMagics } from './archiver/unknown-magics.ts';
import { HeaderVerification } from './archiver/header-verification.ts';
import { KnownCatalogue } from './archiver/known-catalogue.ts';
import { WholeDeliveries } from './archiver/whole-deliveries.ts';
import type { ArchiveObserver, ArchiveSummary, WalArchiver } from './archiver/wal-archiver.ts';
import { Xlogdb } from './catalogue/xlogdb.ts';
import type { ServerConfig, WalwardenConfig } from './config/config.ts';
import { acquireLock, type HeldLock } from './durable/lock-file.ts';
import { isErrorCode, WalwardenError } from './errors.ts';
import { createWalHooks } from './hooks/wal-hooks.ts';
import type { Logger } from './logging.ts';
import { fetchIdentity } from './postgres/fetch-identity.ts';
import { fetchRemoteStatus, type PostgresSettings, type RemoteStatus } from './postgres/remote-status.ts';
import type { ReceiverSettings } from './receiver/receiver-settings.ts';
import { asSourceError, makeServerDirectory } from './server-directories.ts';
import {
  connectionsInUse,
  customFilters,
  hookScripts,
  postgresSettings,
  receiverReportPath,
  serverLock,
  type LockName,
} from './server-settings.ts';
import { createStrategy, type StrategyUse } from './server-storage.ts';
import { isS3Location } from './config/values.ts';
import { claimDirectories } from './storage/claim.ts';
import { S3Error } from './storage/s3/s3-failure.ts';
import type { TakingRules } from './storage/taking.ts';
import { Unpacker } from './storage/unpacker.ts';
import { plainBytes, type ReadingKeys } from './storage/stored-content.ts';
import type { WalStorageStrategy } from './storage/wal-storage-strategy.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';
import { walKind, type WalName } from './wal/wal-name.ts';
import { explain } from './words.ts';

/** An archive that is empty doesn't wait for a server that is away: the first segment tells as well. */
const IDENTITY_TIMEOUT_MS = 3_000;

/** The newest archived segment is read for it. */
const SIZE_ASKED_MS = 60_000;

/** Somebody may be looking whether an archive-wal runs, which takes its lock for a moment. */
const LOCK_WAIT_MS = 1_000;

/** One configured server, with everything that works for it. */
export interface Server extends AsyncDisposable {
  readonly name: string;
  readonly config: ServerConfig;
  readonly strategy: WalStorageStrategy;
  readonly catalogue: Xlogdb;
  readonly errors: ErrorsDirectory;
  /** Why the last passes of archive-wal, whichever process made them, ended early. */
  readonly failures: FailedPasses;
  readonly identity: SystemIdentity;
  /** Segments that were delivered and refused for a page that is broken. */
  readonly refused: RefusedSegments;
  readonly shortSegments: ShortSegments;
  readonly shortDeliveries: ShortDeliveries;
  readonly whole: WholeDeliveries;
  readonly headers: HeaderVerification;
  readonly archivers: readonly WalArchiver[];
  readonly postgres: PostgresSettings;
  /** What PostgreSQL says over the connections in use; asked for once in the life of this object, and never rejects. */
  getRemoteStatus(): Promise<RemoteStatus>;
  readonly receiver: ReceiverSettings;
  readonly keys: ReadingKeys;
  /** Opens what was delivered. */
  readonly unpacker: Unpacker;
  readonly logger: Logger;
  /** The path of one of Barman's locks: `cron`, `archive-wal`, `receive-wal`, `xlogdb`. */
  lockPath(what: LockName): string;
  /** Takes `.<server>-archive-wal.lock`; throws `locked` when another process has it. */
  lockArchive(): Promise<HeldLock>;
  /** Throws `storage` when the archive is not there as a whole, though it was before. */
  checkThere(): Promise<void>;
  /** Throws `storage` when nobody can say that these files, which were not found, are not archived. */
  checkAbsent(names: readonly WalName[]): Promise<void>;
  /** Makes the directories that are missing. */
  makeDirectories(): Promise<void>;
  /**
   * Bytes of a segment, as the newest archived one says; null in an archive
   * without segments, and while a bucket can't be asked, which is logged.
   */
  segmentSize(): Promise<number | null>;
  /** The same, as far as that is known without reading one. */
  knownSegmentSize(): Promise<number | null>;
  /** Finds it out, and remembers it for those who must not read one. */
  rememberSegmentSize(): Promise<void>;
  /**
   * One pass of every archiver, under the lock; what crashes left behind is
   * healed first. `onPass` is told of each that came to its end. What is wrong
   * where files are delivered (`source`) is thrown when the others had their
   * turn; any other trouble ends it.
   */
  archive(verbose: boolean, onPass?: (pass: ArchiveSummary) => void): Promise<void>;
}

/** How a process works for a server. */
export interface OpenOptions extends StrategyUse {
  /** Finish what is in hand. */
  readonly drain?: AbortSignal | undefined;
  /** Told of each file as it is archived. */
  readonly observer?: ArchiveObserver | undefined;
  /** What earlier passes of this process told of files that stay. */
  readonly told?: Told | undefined;
  /** The catalogues that this process has seen. */
  readonly seenCatalogues?: Set<string> | undefined;
  /** Files of one pass at most, where the configuration sets no limit. */
  readonly batchLimit?: number | undefined;
}

/** Wires up one server. Throws `config` when its configuration has problems. */
export function openServer(
  config: WalwardenConfig,
  server: ServerConfig,
  logger: Logger,
  use: OpenOptions = {},
): Server {
  const { drain, kill, observer, batchLimit = 0 } = use;
  if (server.disabled) {
    const problems = server.problems.map((problem) => problem.message).join('; ');
    throw new WalwardenError('config', `server ${server.name} is disabled: ${problems}`, {
      hint: 'correct the configuration; the other servers are not affected',
    });
  }
  const { name, options } = server;
  const readOnly = config.readOnly === true;
  const walsDirectory = options.wals_directory;
  const isLocal = !isS3Location(walsDirectory);
  // The catalogue of a bucket is local: it has to be fsynced and locked.
  const catalogueDirectory = options.xlogdb_directory ?? walsDirectory;
  const lockPath = (what: LockName): string => serverLock(config, name, what);
  const lockArchive = async (): Promise<HeldLock> => {
    if (readOnly) throw new WalwardenError('internal', 'a command that only reads asked for the archive-wal lock');
    return acquireLock(lockPath('archive-wal'), { waitMs: LOCK_WAIT_MS, signal: kill });
  };

  const custom = customFilters(server);
  const rememberedSize = new RememberedSegmentSize(
    join(options.backup_directory, '.segment-size.json'),
    join(options.backup_directory, 'identity.json'),
    logger,
  );
  const headers = new HeaderVerification(options.verify_wal_header, {
    configured: options.wal_segment_size,
    remembered: rememberedSize,
    ask: async () => {
      const asked = { timeoutMs: IDENTITY_TIMEOUT_MS, signal: kill };
      const { server: reached, streaming } = await fetchRemoteStatus(
        { ...postgresSettings(server), walConninfo: null },
        asked,
      );
      return reached?.segmentSize ?? streaming?.segmentSize ?? null;
    },
  });
  const keys: ReadingKeys = {
    custom,
    compression: options.compression,
    passphraseCommand: options.encryption_passphrase_command ?? undefined,
    gnupgHome: options.gnupg_home ?? undefined,
    get opaque() {
      return headers.current;
    },
  };
  const cataloguePath = join(catalogueDirectory, `${name}-xlog.db`);
  const catalogue = new Xlogdb({
    path: cataloguePath,
    legacyPath: join(isLocal ? walsDirectory : catalogueDirectory, 'xlog.db'),
    lockPath: lockPath('xlogdb'),
    migrate: options.migrate_xlogdb,
    logger,
    describeStored: (wal) => strategy.describe(wal),
    kill,
  });
  const inBackups = (file: string): string => join(options.backup_directory, file);
  const knownCatalogue = new KnownCatalogue(
    join(config.global.options.barman_home, `.${name}-catalogue.json`),
    cataloguePath,
    use.seenCatalogues ?? new Set(),
    (problem) => logger.debug({ server: name }, problem),
  );
  const rememberCatalogue = async (): Promise<void> => {
    if (!readOnly) await knownCatalogue.isThere();
  };
  const errors = new ErrorsDirectory(options.errors_directory, inBackups('.errors'));
  const refused = new RefusedSegments(inBackups('.refused'), name, logger);
  const whole = new WholeDeliveries(inBackups('.whole-deliveries'), logger);
  const failures = new FailedPasses(inBackups('.archive-wal.json'), name, logger);
  const identity = new SystemIdentity(
    inBackups('identity.json'),
    {
      archived: async () => (headers.isOff ? null : identityIn(await newestHeader(catalogue, strategy, keys, logger))),
      connected: () => fetchIdentity(postgresSettings(server), { timeoutMs: IDENTITY_TIMEOUT_MS, signal: kill }),
      beforeRecording: async () => {
        await catalogue.create();
        await rememberCatalogue();
      },
    },
    logger,
    readOnly,
  );
  const unknownMagics = new UnknownMagics(inBackups('.unknown-magics.json'), name, logger);
  const rules = async (): Promise<TakingRules> => ({
    opaque: await headers.opaque(),
    asTheyAre: await refused.takenAsTheyAre(),
  });
  const unpacker = new Unpacker({
    custom,
    segmentSize: deliveredSegmentSize,
    opaque: async () => (await rules()).opaque,
    resident: use.resident === true,
  });
  const strategy = createStrategy(
    server,
    {
      catalogue,
      hooks: createWalHooks({
        server: name,
        configuration: config.file,
        scripts: hookScripts(server),
        timeoutMs: options.hook_script_timeout,
        pathPrefix: options.path_prefix === null ? null : options.path_prefix.join(':'),
        logger,
        drain,
        kill,
      }),
      accept: async ({ systemIdentifier, majorVersion, magic }) => {
        const foreign = await identity.accept(systemIdentifier, majorVersion);
        if (foreign === null && majorVersion === null) await unknownMagics.tell(magic);
        return foreign;
      },
      rules,
      nameOf: (wal) => shortSegments.nameOf(wal),
      segmentSize: deliveredSegmentSize,
      unpacker,
    },
    keys,
    logger,
    use,
  );
  const claims = claimDirectories(options.backup_directory);
  const shortDeliveries = new ShortDeliveries(inBackups('.short-segments.json'));
  const shortSegments = new ShortSegments({
    strategy,
    streaming: options.streaming_wals_directory,
    claims: claims.streaming,
    keys,
    unpacker,
    deliveries: shortDeliveries,
  });
  const postgres = postgresSettings(server);
  let remoteStatus: Promise<RemoteStatus> | null = null;
  const getRemoteStatus = (): Promise<RemoteStatus> =>
    (remoteStatus ??= fetchRemoteStatus(connectionsInUse(server), { signal: kill }));
  const receiver: ReceiverSettings = {
    server: name,
    postgres,
    createSlot: options.create_slot,
    pathPrefix: options.path_prefix,
    streamingDirectory: options.streaming_wals_directory,
    claims: claims.streaming,
    lockPath: lockPath('receive-wal'),
    reportPath: receiverReportPath(server),
    errors,
    identity,
    minFree: options.receive_wal_min_free,
    stallTimeoutMs: options.receive_wal_stall_timeout,
    newestArchived: async () =>
      (await catalogue.readLast()).findLast(({ name: archived }) => walKind(archived) === 'segment')?.name ?? null,
    archivedAmong: (names) => strategy.stored(names),
    readArchived: async (wal) => {
      const stored = await strategy.read(wal);
      return stored === null ? null : plainBytes(stored, wal, keys);
    },
    logger,
  };
  const archiverParts = {
    server: name,
    strategy,
    errors,
    logger,
    getRemoteStatus,
    headers,
    incompleteTimeoutMs: options.incomplete_wal_timeout,
    drain,
    observer,
    told: use.told,
  };
  const archivers: WalArchiver[] = [];
  if (options.archiver) {
    archivers.push(
      new FileWalArchiver(archiverParts, {
        incoming: options.incoming_wals_directory,
        claims: claims.incoming,
        batchSize: options.archiver_batch_size || batchLimit,
        customMagic: custom?.magic,
        whole,
      }),
    );
  }
  if (options.streaming_archiver) {
    archivers.push(
      new StreamingWalArchiver(archiverParts, {
        streaming: options.streaming_wals_directory,
        claims: claims.streaming,
        batchSize: options.streaming_archiver_batch_size || batchLimit,
        markerFile: inBackups('.streaming-marker.json'),
        receiver,
      }),
    );
  }

  const makeOne = (path: string): Promise<void> => makeServerDirectory(path, config.global.options.barman_home);
  const ownDirectories = [options.backup_directory, options.errors_directory];
  ownDirectories.push(isLocal ? walsDirectory : catalogueDirectory);
  const deliveryDirectories = [options.incoming_wals_directory, options.streaming_wals_directory];
  async function makeDirectories(): Promise<void> {
    await checkCatalogue();
    if (readOnly) return;
    for (const path of [...ownDirectories, ...deliveryDirectories]) await makeOne(path);
  }

  async function remembered<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw await failures.failed(error);
    }
  }

  async function archiveUnderLock(verbose: boolean, onPass?: (pass: ArchiveSummary) => void): Promise<void> {
    await identity.removeLeftovers();
    // Taking its lock heals a catalogue that a crash left with a torn line.
    await catalogue.withLock(async () => {});
    const faults: WalwardenError[] = [];
    const tell = (told: readonly WalwardenError[]): void => {
      for (const { code, message, hint } of told) logger.error({ server: name, code, hint }, message);
    };
    const attempt = async (work: () => Promise<void>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        if (!isErrorCode(error, 'source')) {
          tell(faults);
          throw error;
        }
        faults.push(error);
      }
    };
    for (const path of deliveryDirectories) {
      await attempt(() => makeOne(path).catch((error: unknown) => Promise.reject(asSourceError(error))));
    }
    for (const archiver of archivers) {
      await attempt(async () => {
        const pass = await archiver.archive(verbose);
        onPass?.(pass);
      });
    }
    const [first, ...others] = faults;
    tell(others);
    if (first !== undefined) throw first;
  }

  /** Before anything is made or delivered where a file system may be missing. */
  async function checkCatalogue(): Promise<void> {
    // In this order: another delivery may be the first of all, and make it meanwhile.
    const wasThere = await knownCatalogue.wasThere();
    if (await catalogue.exists()) await rememberCatalogue();
    else if (wasThere) throw noCatalogue('though it had one');
  }

  /** An empty mount point looks like an empty archive, but for what stands beside it. */
  function noCatalogue(though: string): WalwardenError {
    const rebuild = `walwarden rebuild-xlogdb ${name}`;
    return new WalwardenError(
      'storage',
      isLocal
        ? `the archive ${walsDirectory} has no catalogue, ${though}`
        : `${cataloguePath}, the catalogue of ${walsDirectory}, does not exist, ${though}`,
      {
        hint: isLocal ? `is its file system mounted? If it is: ${rebuild}` : `to make it from the bucket: ${rebuild}`,
      },
    );
  }

  async function askSegmentSize(newest: readonly WalFileInfo[]): Promise<number | null> {
    const segment = newest.findLast(({ name: archived }) => walKind(archived) === 'segment');
    return (
      (await strategy.knownSegmentSize(segment?.name ?? null)) ??
      (headers.isOff ? null : (await newestHeader(catalogue, strategy, keys, logger))?.segmentSize) ??
      null
    );
  }
  let delivered: { readonly size: Promise<number | null>; readonly askedAt: number } | null = null;
  /** What limits a delivery that comes compressed; asked again after a while, because it may change, and not each time. */
  function deliveredSegmentSize(): Promise<number | null> {
    if (delivered === null || performance.now() - delivered.askedAt > SIZE_ASKED_MS) {
      const size = segmentSize();
      delivered = { size, askedAt: performance.now() };
      // Neither a fault is remembered, nor that there was no segment yet.
      const forget = (): unknown => (delivered = null);
      size.then((known) => known ?? forget(), forget);
    }
    return delivered.size;
  }
  async function segmentSize(): Promise<number | null> {
    const opaque = await headers.opaque();
    if (opaque !== null && opaque.segmentSize !== null) return opaque.segmentSize;
    const newest = await catalogue.readLast();
    if (isLocal) return askSegmentSize(newest);
    const known = plainSegmentSize(newest) ?? (await rememberedSize.read());
    if (known !== null) return known;
    try {
      const size = await askSegmentSize(newest);
      if (size !== null && !readOnly) await rememberedSize.write(size);
      return size;
    } catch (error) {
      if (!(error instanceof S3Error)) throw error;
      logger.warn({ server: name }, `the segment size of ${name} is not known: ${explain(error)}`);
      return null;
    }
  }

  return {
    name,
    config: server,
    strategy,
    catalogue,
    errors,
    failures,
    identity,
    refused,
    shortSegments,
    shortDeliveries,
    whole,
    headers,
    archivers,
    postgres,
    getRemoteStatus,
    receiver,
    keys,
    unpacker,
    logger,
    lockPath,
    lockArchive,
    async checkThere() {
      await strategy.checkThere();
      const belongs = await readIdentity(identity.path);
      if (belongs !== null && !(await catalogue.exists())) throw noCatalogue(`though ${identity.path} exists`);
      await checkCatalogue();
    },
    async checkAbsent(names) {
      await this.checkThere();
      for (const wal of names) {
        if ((await catalogue.find(wal)) === undefined) continue;
        throw new WalwardenError('storage', `${wal} is not in ${walsDirectory}, though the catalogue has it`, {
          hint: isLocal
            ? `was it deleted by hand, or is another file system mounted there? What is really there: walwarden rebuild-xlogdb ${name}`
            : `is this the right bucket, prefix and aws_endpoint_url, and does a lifecycle rule delete there? What is really there: walwarden rebuild-xlogdb ${name}`,
        });
      }
    },
    makeDirectories,
    segmentSize,
    async knownSegmentSize() {
      const known = plainSegmentSize(await catalogue.readLast()) ?? (await rememberedSize.read());
      return known ?? (isLocal ? strategy.knownSegmentSize(null) : null);
    },
    async rememberSegmentSize() {
      const size = await segmentSize();
      if (size !== null) await rememberedSize.write(size);
    },
    async archive(verbose, onPass) {
      await using _lock = await remembered(async () => {
        await checkCatalogue();
        for (const path of ownDirectories) await makeOne(path);
        return lockArchive();
      });
      // Under the lock, so that it tells of the last pass of all.
      await remembered(() => archiveUnderLock(verbose, onPass));
      if (await catalogue.exists()) await rememberCatalogue();
      if (drain?.aborted === true) return;
      await failures.succeeded();
      // While the endpoint answers: who wants to know it may come when it doesn't.
      if (headers.isOff && (await catalogue.exists())) {
        await identity.current();
        await headers.remember();
      } else if (!isLocal) await segmentSize();
    },
    async [Symbol.asyncDispose]() {
      await unpacker[Symbol.asyncDispose]();
      await strategy.close();
    },
  };
}
