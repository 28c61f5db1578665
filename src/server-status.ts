import { summariseErrorFiles } from './archiver/errors-directory.ts';
import { StreamingWalArchiver } from './archiver/streaming-wal-archiver.ts';
import type { ServerConfig, WalwardenConfig } from './config/config.ts';
import { isS3Location } from './config/values.ts';
import { isErrorCode, messageOf, WalwardenError } from './errors.ts';
import { describeFailure } from './health/archive-checks.ts';
import { unlessAborted } from './health/patience.ts';
import { reportPostgres } from './health/postgres-status.ts';
import { StatusReport } from './health/status-report.ts';
import type { Logger } from './logging.ts';
import { answerOf, diskSpace, errorNames } from './server-facts.ts';
import { Look } from './server-look.ts';
import { patienceWithin } from './server-settings.ts';
import { openServer, type Server } from './server.ts';
import type { WalFileInfo } from './wal/wal-file-info.ts';
import { explain, formatBytes, formatMoment, formatSpan } from './words.ts';

/** What `status` says of one server. */
export interface ServerStatusReport {
  readonly server: ServerConfig;
  readonly report: StatusReport;
}

/** What programs are told: by `status -f json`, and over HTTP. */
export function statusJson({ server, report }: ServerStatusReport): unknown {
  const { name, active, disabled, passive } = server;
  const values = Object.fromEntries(report.entries.map(({ name: entry, value }) => [entry, value]));
  return { server: name, active, disabled, passive, status: values };
}

/** Nobody who asks for the status wants to wait for longer. */
const PATIENCE_MS = 10_000;

/** Everything that is known of a server, within some seconds also when PostgreSQL gives no answer. */
export async function statusOfServer(
  config: WalwardenConfig,
  server: ServerConfig,
  logger: Logger,
  signal: AbortSignal,
): Promise<ServerStatusReport> {
  const report = new StatusReport();
  reportConfiguration(report, server);
  const stop = new AbortController();
  let opened: Server;
  const { check_timeout: limit } = server.options;
  const limitMs = limit > 0 ? Math.min(limit, PATIENCE_MS) : PATIENCE_MS;
  try {
    const kill = AbortSignal.any([signal, stop.signal]);
    opened = openServer(config, server, logger, { kill, patience: patienceWithin(limitMs) });
  } catch (error) {
    if (!isErrorCode(error, 'config')) throw error;
    if (server.problems.length === 0) report.add('problem', 'Problem', error.message, explain(error));
    return { server, report };
  }
  const timer = setTimeout(() => stop.abort(), limitMs);
  try {
    const aborted = AbortSignal.any([signal, stop.signal]);
    await fill(report, new Look(opened, config.global.options.barman_lock_directory, limitMs), aborted);
    if (signal.aborted) throw new WalwardenError('aborted', 'the status was interrupted');
    return { server, report };
  } finally {
    clearTimeout(timer);
    stop.abort();
    await opened[Symbol.asyncDispose]();
  }
}

function reportConfiguration(report: StatusReport, server: ServerConfig): void {
  const { active, disabled, model, problems, options } = server;
  const { description } = options;
  if (description !== null) report.add('description', 'Description', description, description);
  report.add('active', 'Active', active, yes(active));
  report.add('disabled', 'Disabled', disabled, yes(disabled));
  if (problems.length > 0) {
    const messages = problems.map(({ message }) => message);
    report.add('problems', 'Problems', messages, messages.join('; '));
  }
  report.add('active_model', 'Active configuration model', model, model ?? 'None');
}

/** In the order of Barman, then what it has not. */
async function fill(report: StatusReport, look: Look, signal: AbortSignal): Promise<void> {
  const { server } = look;
  const { passive } = server.config;
  // It takes its time, as PostgreSQL may.
  const bucket = bucketProblem(server, look.limitMs);
  if (!passive) {
    const remote = await answerOf(server, signal, look.limitMs);
    reportPostgres(report, remote, server.postgres.slotName);
    for (const archiver of server.archivers.toSorted((a) => (a instanceof StreamingWalArchiver ? -1 : 1))) {
      const part = new StatusReport();
      await unlessAborted(archiver.status(part), signal, GRACE_MS);
      report.entries.push(...part.entries);
    }
  }
  report.add('passive_node', 'Passive node', passive, yes(passive));
  await tell(report, 'archive_files', 'Archived WAL files', () => reportArchive(report, look));
  await tell(report, 'archive_bucket', 'Archive in S3', () => reportBucket(report, server, bucket));
  for (const kind of ['incoming', 'streaming'] as const) {
    await tell(report, `${kind}_queue`, `Files waiting in ${kind}`, () => reportQueue(report, look, kind));
  }
  await tell(report, 'last_archive_wal', 'Last archive-wal', () => reportPass(report, look));
  await tell(report, 'archive_failure', 'Archiving fails', () => reportFailure(report, look));
  await tell(report, 'archiver_errors', 'Archiver errors', () => reportErrors(report, server));
}

/** An archiver that asks PostgreSQL itself still has something to tell when there was no answer. */
const GRACE_MS = 1_000;

/** What can't be looked at is told; the rest goes on. */
async function tell(report: StatusReport, name: string, label: string, add: () => Promise<void>): Promise<void> {
  try {
    await add();
  } catch (error) {
    report.add(name, label, null, `FAILED (${error instanceof WalwardenError ? explain(error) : String(error)})`);
  }
}

async function reportArchive(report: StatusReport, { server, now }: Look): Promise<void> {
  const path = server.config.options.wals_directory;
  // What is known of a bucket is known here, whether it answers or not.
  if (!isS3Location(path)) await server.checkThere();
  const { files, first, last, newest } = await server.catalogue.extent();
  const wal = (name: string, label: string, info: WalFileInfo | null): void =>
    report.add(
      name,
      label,
      info === null ? null : { wal: info.name, time: info.mtime },
      info === null ? 'none' : `${info.name}, written ${formatMoment(info.mtime * 1000, now)}`,
    );
  report.add('archive_files', 'Archived WAL files', files, `${files}`);
  wal('archive_first_wal', 'First WAL in the archive', first);
  wal('archive_last_wal', 'Last WAL in the archive', last);
  if (newest !== null && newest.name !== last?.name) wal('archive_newest_wal', 'Newest WAL in the archive', newest);
  if (isS3Location(path)) return;
  const space = await diskSpace(path);
  if (space === null) return;
  const { free, total } = space;
  const text = `${formatBytes(free)} of ${formatBytes(total)}, ${path}`;
  report.add('archive_disk_free', 'Free space of the archive', { free, total, path }, text);
}

/** Where the bucket is, and whether it answers. */
async function reportBucket(report: StatusReport, { config }: Server, asked: Promise<string | null>): Promise<void> {
  const { wals_directory: location, aws_endpoint_url, aws_region } = config.options;
  if (!isS3Location(location)) return;
  const endpoint = aws_endpoint_url ?? (aws_region === null ? 'AWS' : `AWS in ${aws_region}`);
  const problem = await asked;
  const text = `${location}, at ${endpoint}${problem === null ? '' : `: FAILED (${problem})`}`;
  report.add('archive_bucket', 'Archive in S3', { location, endpoint, problem }, text);
}

/** What keeps us from seeing the archive in a bucket; null when nothing does. Never rejects. */
async function bucketProblem(server: Server, limitMs: number): Promise<string | null> {
  if (!isS3Location(server.config.options.wals_directory)) return null;
  try {
    await server.checkThere();
    return null;
  } catch (error) {
    if (isErrorCode(error, 'aborted')) return `no answer within ${formatSpan(limitMs)}`;
    return error instanceof WalwardenError ? explain(error) : messageOf(error);
  }
}

async function reportQueue(report: StatusReport, look: Look, kind: 'incoming' | 'streaming'): Promise<void> {
  const { waiting, first, directory } = await look.queue(kind);
  const { options, passive } = look.server.config;
  const takes = !passive && options[kind === 'incoming' ? 'archiver' : 'streaming_archiver'];
  const problem = takes ? await look.trouble(kind) : null;
  const value = {
    files: waiting,
    first: first?.name ?? null,
    since: first === null ? null : first.arrived / 1000,
    directory,
    problem,
  };
  const text =
    first === null
      ? `${waiting}`
      : `${waiting}, the first is ${first.name}, since ${formatMoment(first.arrived, look.now)}`;
  report.add(`${kind}_queue`, `Files waiting in ${kind}`, value, problem === null ? text : `${waiting}: ${problem}`);
}

/** When somebody archived last, be it we or a Barman on the same home. */
async function reportPass(report: StatusReport, look: Look): Promise<void> {
  const pass = await look.pass();
  const value = pass === null ? null : { started: pass.startedAt / 1000, running: pass.running, pid: pass.pid };
  const atWork = pass?.running === true ? `, process ${pass.pid} at work` : '';
  const text = pass === null ? 'never' : `${formatMoment(pass.startedAt, look.now)}${atWork}`;
  report.add('last_archive_wal', 'Last archive-wal', value, text);
}

/** Only while it does. */
async function reportFailure(report: StatusReport, look: Look): Promise<void> {
  const failure = await look.failure();
  if (failure === null) return;
  const { since, last, passes, message, hint } = failure;
  const value = { since: since / 1000, last: last / 1000, passes, message, hint };
  report.add('archive_failure', 'Archiving fails', value, describeFailure(failure, look.now));
}

async function reportErrors(report: StatusReport, server: Server): Promise<void> {
  const names = await errorNames(server.errors.path);
  const summary = summariseErrorFiles(names);
  report.add('archiver_errors', 'Archiver errors', { files: names.length, summary }, summary ?? 'none');
}

/** As Barman prints it. */
function yes(value: boolean): string {
  return value ? 'True' : 'False';
}
