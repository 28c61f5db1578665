import { summariseErrorFiles } from './archiver/errors-directory.ts';
import { receivedWithoutSlotUntil, whyNothingIsReceived } from './archiver/streaming-health.ts';
import { StreamingWalArchiver } from './archiver/streaming-wal-archiver.ts';
import { createCompressor, decompress } from './compression/codecs.ts';
import { pipeThrough } from './compression/external-program.ts';
import type { ServerConfig, WalwardenConfig } from './config/config.ts';
import { encryptGpg } from './encryption/gpg.ts';
import { isErrorCode } from './errors.ts';
import {
  checkArchiverErrors,
  checkOpaqueWal,
  checkQueue,
  checkRefusedSegment,
  checkWalAge,
  describeFailure,
  describeGaps,
  praiseGaps,
  walSize,
  type GapSeverity,
} from './health/archive-checks.ts';
import { checkListing } from './health/listing-check.ts';
import { runChecks, type CheckStep } from './health/check-run.ts';
import type { CheckResult, CheckStrategy } from './health/check-strategy.ts';
import {
  checkPostgres,
  checkReplicationSlot,
  checkSystemIdentifiers,
  nameOf,
  type PostgresCheckOptions,
} from './health/postgres-checks.ts';
import type { Logger } from './logging.ts';
import type { RemoteStatus } from './postgres/remote-status.ts';
import { archiveIdentifier, errorNames, firstUnlisted, localLeftovers } from './server-facts.ts';
import { isOlderThan, LISTED_EVERY_MS, seeFiles } from './server-listing.ts';
import { oddSizesAmong } from './server-sizes.ts';
import { Look } from './server-look.ts';
import { openServer, type Server } from './server.ts';
import { compressionSettings, customFilters, patienceWithin } from './server-settings.ts';
import { count, explain } from './words.ts';

/** The checks of one server. */
export interface ServerCheck {
  readonly server: ServerConfig;
  /** In Barman's order. */
  readonly results: readonly CheckResult[];
  /** Something that gave no answer in time still runs. */
  readonly abandoned: boolean;
}

/** Every check of one server, in at most `check_timeout`. Throws `aborted` when `signal` fires. */
export async function checkServer(
  config: WalwardenConfig,
  server: ServerConfig,
  logger: Logger,
  signal: AbortSignal,
): Promise<ServerCheck> {
  const stop = new AbortController();
  let opened: Server;
  try {
    const kill = AbortSignal.any([signal, stop.signal]);
    opened = openServer(config, server, logger, { kill, patience: patienceWithin(server.options.check_timeout) });
  } catch (error) {
    if (!isErrorCode(error, 'config')) throw error;
    // Its values may be the defaults in place of bad ones: nothing is looked at with them.
    const problems = server.problems.map(({ message }) => message);
    const hint = problems.length > 0 ? problems.join('; ') : explain(error);
    return { server, results: [{ check: 'configuration', ok: false, hint }], abandoned: false };
  }
  try {
    const limitMs = server.options.check_timeout;
    const look = new Look(opened, config.global.options.barman_lock_directory, limitMs);
    const run = await runChecks(stepsFor(look), { limitMs, signal });
    return { server, ...run };
  } finally {
    stop.abort();
    await opened[Symbol.asyncDispose]();
  }
}

/** All checks, in Barman's order. */
function stepsFor(look: Look): CheckStep[] {
  const { server } = look;
  const { options, passive } = server.config;
  const steps: (CheckStep | null)[] = [
    { name: 'WAL archive', patient: true, run: (strategy, signal) => checkArchive(look, strategy, signal) },
    { name: 'incoming WALs directory', run: (strategy) => checkQueueOf(look, strategy, 'incoming') },
    { name: 'streaming WALs directory', run: (strategy) => checkQueueOf(look, strategy, 'streaming') },
    passive ? null : { name: 'PostgreSQL', run: (strategy, signal) => checkServerOf(look, strategy, signal) },
    { name: 'directories', run: (strategy) => checkDirectories(look, strategy) },
    { name: 'WAL headers', run: (strategy, signal) => checkHeaders(look, strategy, signal) },
    options.encryption === null ? null : { name: 'encryption', run: (...args) => checkEncryption(server, ...args) },
    { name: 'wal maximum age', patient: true, run: (strategy, signal) => checkAge(look, strategy, signal) },
    { name: 'archived files', patient: true, run: (strategy, signal) => checkStored(look, strategy, signal) },
    { name: 'wal size', run: async (strategy, signal) => strategy.record([walSize(await look.archive(signal))]) },
    { name: 'compression settings', run: (...args) => checkCompression(server, ...args) },
    { name: 'flock', run: checkFlock },
    { name: 'systemid coherence', run: (strategy, signal) => checkIdentity(look, strategy, signal) },
  ];
  // Streaming goes first in Barman.
  const archivers = passive ? [] : server.archivers.toSorted((a) => (a instanceof StreamingWalArchiver ? -1 : 1));
  for (const archiver of archivers) steps.push({ name: archiver.name, run: (strategy) => archiver.check(strategy) });
  steps.push({ name: 'refused WAL', run: (strategy) => checkRefused(look, strategy) });
  steps.push({ name: 'archiver errors', run: (strategy) => checkErrors(server, strategy) });
  return steps.filter((step) => step !== null);
}

/** `WAL archive`: only when something is wrong with it, as in Barman. */
async function checkArchive(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  const { server } = look;
  strategy.initCheck('WAL archive');
  // Those of a new server are made first.
  await look.directories();
  await server.checkThere();
  const { files, damagedLines } = await look.archive(signal);
  const rebuild = `walwarden rebuild-xlogdb ${server.name} makes it anew`;
  if (files === 0) {
    const lost = await firstUnlisted(server);
    const why =
      lost === null
        ? await look.whyNothingComes(true, signal)
        : `the catalogue is empty, but there is ${lost}: ${rebuild}`;
    return strategy.result(false, why);
  }
  if (damagedLines > 0)
    return strategy.result(false, `the catalogue has ${count(damagedLines, 'damaged line')}: ${rebuild}`);
  if (!server.config.active || server.config.passive) return;
  const failure = await look.failure();
  for (const kind of ['incoming', 'streaming'] as const) {
    if (!server.config.options[kind === 'incoming' ? 'archiver' : 'streaming_archiver']) continue;
    const trouble = await look.trouble(kind);
    if (trouble !== null) strategy.result(false, trouble);
    // The same reason holds for what waits in the other directory.
    if (trouble !== null && failure !== null) return;
  }
  if (strategy.hasErrors) return;
  // Nothing is left to be archived, so nobody needs to be woken.
  if (failure !== null) strategy.result(true, describeFailure(failure, look.now));
  const left = await localLeftovers(server.config);
  if (left !== null) strategy.result(true, left);
  const open = (await look.gaps(signal)).filter(({ acknowledged }) => acknowledged === undefined);
  const gaps = describeGaps(open, server.name);
  if (gaps !== null) strategy.record([gapResult(gaps, server.config.options.gap_severity)]);
}

function gapResult(hint: string, severity: GapSeverity): CheckResult {
  const result = { check: 'WAL archive', ok: severity !== 'critical', hint };
  return severity === 'warning' ? { ...result, severity } : result;
}

/** `archived files`: what the last listing of the archive found, and a look at a few files now. */
async function checkStored(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  const { server, now } = look;
  strategy.initCheck('archived files');
  const { files, listing, stillListed, sample } = await look.archive(signal);
  // That nothing is archived, another check says.
  if (files === 0) return;
  const missingThen = new Set(stillListed);
  const seen = await seeFiles(server, [...new Set([...sample.map(({ name }) => name), ...stillListed])], missingThen);
  const facts = {
    server: server.name,
    listing,
    stillMissing: stillListed.filter((name) => !seen.stored.has(name)),
    seen: {
      looked: sample.filter(({ name }) => seen.stored.has(name) || seen.missing.includes(name)).length,
      missing: seen.missing.filter((name) => !missingThen.has(name)),
      oddSizes: await oddSizesAmong(server, sample, seen.stored),
      untold: seen.untold,
    },
    expected:
      server.config.active &&
      !server.config.passive &&
      (listing !== null || (await isOlderThan(server, 2 * LISTED_EVERY_MS, now))),
  };
  const result = checkListing(facts, now);
  const praise = [praiseGaps(await look.gaps(signal), files), ...(result.praise === undefined ? [] : [result.praise])];
  strategy.record([{ ...result, praise: praise.join('; ') }]);
}

async function checkQueueOf(look: Look, strategy: CheckStrategy, kind: 'incoming' | 'streaming'): Promise<void> {
  const { archiver, streaming_archiver, max_incoming_wals_queue: limit } = look.server.config.options;
  const enabled = kind === 'incoming' ? archiver : streaming_archiver;
  strategy.initCheck(enabled ? `${kind} WALs directory` : `empty ${kind} directory`);
  const why = enabled && limit !== null ? await look.whyItWaits(kind) : null;
  strategy.record(checkQueue(await look.queue(kind), { kind, enabled, limit, why }));
}

async function checkServerOf(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  const { server } = look;
  const { slot_name: slotName, streaming_archiver: streams } = server.config.options;
  strategy.initCheck('PostgreSQL');
  const remote = await look.remote(signal);
  const streaming = streams ? await look.streaming(signal) : null;
  const options: PostgresCheckOptions = {
    server: server.name,
    streams,
    separate: isSeparate(server),
    slotName,
    streamingName: look.server.postgres.streamingName,
    notReceiving: streaming === null ? null : whyNothingIsReceived(streaming, look.now),
    withoutSlotUntil: streaming === null ? null : receivedWithoutSlotUntil(streaming, look.now),
    createSlot: server.receiver.createSlot,
    isOtherCluster: await isOtherCluster(server.identity.path, remote),
  };
  strategy.record(checkPostgres(remote, options));
  if (options.separate && streams) {
    strategy.initCheck(nameOf('systemid coherence', options));
    strategy.record([await identityOf(look, remote.slot?.systemIdentifier ?? null, remote, options)]);
  }
  strategy.record(checkReplicationSlot(remote, options));
}

/** Whether the server that WAL comes from is another one than the archive's, or its connections reach different ones. */
async function isOtherCluster(identityPath: string, { streaming, slot }: RemoteStatus): Promise<boolean> {
  // A damaged file is told by systemid coherence.
  const archive = await archiveIdentifier(identityPath).catch(() => null);
  const ids = [archive, streaming?.systemIdentifier ?? null, slot?.systemIdentifier ?? null];
  return new Set(ids.filter((id) => id !== null)).size > 1;
}

/** WAL comes from another server than that of `conninfo`. */
function isSeparate({ postgres }: Server): boolean {
  return postgres.walConninfo !== postgres.conninfo;
}

async function checkDirectories(look: Look, strategy: CheckStrategy): Promise<void> {
  strategy.initCheck('directories');
  const problems = await look.directories();
  strategy.result(problems.length === 0, problems.length === 0 ? null : problems.join('; '));
}

/** `WAL headers`: only where they are not verified. */
async function checkHeaders(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  const { headers, config } = look.server;
  const opaque = await headers.opaque();
  if (opaque === null) return;
  strategy.initCheck('WAL headers');
  const { server, streaming } = config.passive ? { server: null, streaming: null } : await look.remote(signal);
  strategy.record([checkOpaqueWal(opaque.segmentSize, server?.segmentSize ?? streaming?.segmentSize ?? null)]);
}

async function checkEncryption(server: Server, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  const { encryption_key_id: keyId, gnupg_home } = server.config.options;
  if (keyId === null) return;
  strategy.initCheck('encryption');
  await encryptGpg(Buffer.from('walwarden'), { keyId, homedir: gnupg_home ?? undefined, signal });
  strategy.result(true, `for key ${keyId}`);
}

async function checkAge(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  strategy.initCheck('wal maximum age');
  const { newest } = await look.archive(signal);
  const result = checkWalAge(newest, look.server.config.options.last_wal_maximum_age, look.now);
  const why = result.ok ? '' : `: ${await look.whyNothingComes(newest === null, signal)}`;
  strategy.result(result.ok, `${result.hint ?? ''}${why}`);
}

/** Compressible, and as long as a WAL page. */
const SAMPLE = Buffer.alloc(8192, 'walwarden');

/** Does what will be done with every file, so that a missing program or a wrong filter shows. */
async function checkCompression(server: Server, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  strategy.initCheck('compression settings');
  const custom = customFilters(server.config);
  const settings = compressionSettings(server.config, custom);
  if (settings === null) return strategy.result(true);
  const { compression } = settings;
  const compressed = await createCompressor(settings).compress(SAMPLE, signal);
  const plain = await decompress(compressed, compression, { maxSize: SAMPLE.length, custom, signal });
  const same = plain.equals(SAMPLE);
  const magic = compression === 'custom' ? custom?.magic : undefined;
  if (same && magic !== undefined && !compressed.subarray(0, magic.length).equals(magic)) {
    const [expected, found] = [magic, compressed.subarray(0, magic.length)].map((b) => Buffer.from(b).toString('hex'));
    const text = `custom_compression_magic is 0x${expected}, and what custom_compression_filter writes begins with 0x${found}`;
    return strategy.result(false, text);
  }
  strategy.result(same, same ? compression : `what compression = ${compression} writes does not read back as it was`);
}

/** All our locks are taken by it; told only when it is missing. */
async function checkFlock(strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  strategy.initCheck('flock');
  try {
    await pipeThrough('flock', ['--version'], new Uint8Array(), { maxOutput: 1024, signal });
  } catch (error) {
    if (!isErrorCode(error, 'program')) throw error;
    strategy.result(false, `${error.message}, and no lock can be taken without it; install util-linux`);
  }
}

async function checkIdentity(look: Look, strategy: CheckStrategy, signal: AbortSignal): Promise<void> {
  strategy.initCheck('systemid coherence');
  const remote = await look.remote(signal);
  const separate = isSeparate(look.server);
  const options = { server: look.server.name, streams: true, separate: false, slotName: null, notReceiving: null };
  const status = separate ? { ...remote, streaming: null } : remote;
  strategy.record([await identityOf(look, remote.server?.systemIdentifier ?? null, status, options)]);
}

async function identityOf(
  look: Look,
  server: bigint | null,
  { streaming }: RemoteStatus,
  options: PostgresCheckOptions,
): Promise<CheckResult> {
  const { path } = look.server.identity;
  return checkSystemIdentifiers(nameOf('systemid coherence', options), look.server.name, {
    server,
    streaming: streaming?.systemIdentifier ?? null,
    archive: await archiveIdentifier(path),
    path,
    options: options.separate ? ['wal_conninfo', 'wal_streaming_conninfo'] : ['conninfo', 'streaming_conninfo'],
  });
}

/** `refused WAL`: only when a segment is delivered again and again. */
async function checkRefused({ server, now }: Look, strategy: CheckStrategy): Promise<void> {
  strategy.initCheck('refused WAL');
  for (const segment of await server.refused.repeated(now)) {
    // It may have come in another way meanwhile.
    if ((await server.catalogue.find(segment.name)) !== undefined) continue;
    strategy.record([checkRefusedSegment(segment, server.name, now)]);
  }
}

async function checkErrors(server: Server, strategy: CheckStrategy): Promise<void> {
  strategy.initCheck('archiver errors');
  const names = await errorNames(server.errors.path);
  strategy.record([checkArchiverErrors(names, summariseErrorFiles(names), server.name)]);
}
