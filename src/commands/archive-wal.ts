import type { ArchiveSummary, NotArchived } from '../archiver/wal-archiver.ts';
import { findServer, type ServerConfig } from '../config/config.ts';
import { isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { listWhenDue } from '../server-listing.ts';
import { openServer } from '../server.ts';
import { count, formatBytes, type CommandContext, type Report } from './command.ts';

interface ServerReport {
  readonly server: string;
  /** Why nothing was tried; null when it was. */
  readonly skipped: string | null;
  /** What kept it from doing everything; null when nothing did. */
  readonly error: WalwardenError | null;
  readonly passes: readonly ArchiveSummary[];
}

/**
 * `archive-wal SERVER...|all`: one pass over what waits. The exit status is 1
 * when a file went to errors, can't be read, or has been incomplete for too long.
 * Once a day, what is stored is listed after it.
 */
export async function archiveWal(context: CommandContext, names: readonly string[]): Promise<Report> {
  const { config } = context;
  const servers = names.includes('all') ? [...config.servers.values()] : names.map((name) => findServer(config, name));
  const reports: ServerReport[] = [];
  for (const server of servers) {
    if (context.drain.aborted) break;
    const report = await archiveServer(context, server);
    reports.push(report);
    // The error of a single server is thrown, and logged once, unless there is more to tell.
    if (report.error !== null && (servers.length > 1 || report.passes.length > 0)) {
      const { code, message, hint, repeated } = report.error;
      // Who reads stderr is told every time.
      context.logger[repeated && context.logsToFile ? 'debug' : 'error'](
        { server: server.name, code, hint },
        `archive-wal of ${server.name} ended early: ${message}`,
      );
    }
  }
  const [only] = reports;
  if (servers.length === 1 && only !== undefined && only.error !== null && only.passes.length === 0) {
    throw only.error;
  }
  const trouble = reports.some(
    ({ error, passes }) => error !== null || passes.some((pass) => troubles(pass).length > 0),
  );
  return {
    text: reports.map(formatReport).join(''),
    json: reports.map(toJson),
    exitCode: trouble ? 1 : 0,
  };
}

/** Never rejects: one server's trouble is not the others'. */
async function archiveServer(context: CommandContext, server: ServerConfig): Promise<ServerReport> {
  const { name } = server;
  const report = { server: name, skipped: null, error: null, passes: [] };
  if (server.passive)
    return { ...report, skipped: `Server ${name} is passive: its WAL is archived by its primary node` };
  if (!server.active) return { ...report, skipped: `Skipping inactive server ${name}` };
  const passes: ArchiveSummary[] = [];
  try {
    await using opened = openServer(context.config, server, context.logger, context);
    await opened.archive(true, (pass) => passes.push(pass));
    if (!context.drain.aborted) await listWhenDue(opened, context.drain, { young: context.detached });
    return { ...report, passes };
  } catch (error) {
    if (isErrorCode(error, 'locked')) {
      const skipped = `Another archive-wal process is already running on server ${name}. Skipping to the next server`;
      return { ...report, skipped };
    }
    const known =
      error instanceof WalwardenError ? error : new WalwardenError('internal', messageOf(error), { cause: error });
    return { ...report, error: known, passes };
  }
}

function troubles(pass: ArchiveSummary): readonly NotArchived[] {
  return [...pass.conflicts, ...pass.unknown, ...pass.failed, ...pass.overdue];
}

function formatReport({ server, skipped, error, passes }: ServerReport): string {
  if (skipped !== null) return `${skipped}\n`;
  const told = passes.map((pass) => formatPass(server, pass)).join('');
  if (error === null) return told;
  return `${told}${server}: ERROR: ${error.message}${error.hint === undefined ? '' : ` (${error.hint})`}\n`;
}

function formatPass(server: string, pass: ArchiveSummary): string {
  const bytes = pass.archived.reduce((sum, { size }) => sum + size, 0);
  const lines = [
    `${server}, ${pass.archiver}: ${count(pass.archived.length, 'file')} archived (${formatBytes(bytes)} stored)` +
      (pass.duplicates.length > 0 ? `, ${pass.duplicates.length} archived before` : '') +
      (pass.waiting > 0 ? `, ${pass.waiting} still waiting` : ''),
    ...pass.archived.map(({ name }) => `\t${name}`),
    ...troubles(pass).map(
      ({ name, reason, movedTo }) =>
        `\t${JSON.stringify(name)} NOT archived: ${reason}${movedTo === null ? '' : `; see: walwarden errors explain ${server} ${JSON.stringify(movedTo)}`}`,
    ),
  ];
  return `${lines.join('\n')}\n`;
}

function toJson({ server, skipped, error, passes }: ServerReport): unknown {
  return {
    server,
    skipped,
    error: error === null ? null : { code: error.code, message: error.message, hint: error.hint ?? null },
    passes: passes.map((pass) => ({
      archiver: pass.archiver,
      archived: pass.archived,
      duplicates: pass.duplicates.map(({ name }) => name),
      conflicts: pass.conflicts,
      unknown: pass.unknown,
      failed: pass.failed,
      overdue: pass.overdue,
      incomplete: pass.incomplete,
      waiting: pass.waiting,
    })),
  };
}
