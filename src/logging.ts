import { openSync } from 'node:fs';
import { pino, type DestinationStream, type Logger } from 'pino';
import { messageOf } from './errors.ts';

export interface LogSettings {
  /** JSON goes there; null means stderr. */
  readonly file: string | null;
  /** Barman's names of levels, or pino's. */
  readonly level: string;
}

const LEVELS: Record<string, string> = {
  NOTSET: 'trace',
  TRACE: 'trace',
  DEBUG: 'debug',
  INFO: 'info',
  WARNING: 'warn',
  WARN: 'warn',
  ERROR: 'error',
  CRITICAL: 'fatal',
  FATAL: 'fatal',
};

export const LOG_LEVELS: readonly string[] = Object.keys(LEVELS);

/**
 * The log of this process: JSON lines to a file, or to stderr when there is
 * none; on a terminal, lines for people. Written synchronously, so that a crash
 * takes no line with it. A log file that can't be opened is told on stderr: it
 * must not keep WAL from being archived.
 */
export async function createLogger(settings: LogSettings): Promise<Logger> {
  const level = LEVELS[settings.level.toUpperCase()] ?? 'info';
  let problem: string | null = null;
  let destination: DestinationStream | null = null;
  if (settings.file !== null) {
    try {
      destination = pino.destination({ dest: openSync(settings.file, 'a', 0o640), sync: true });
    } catch (error) {
      problem = `can't open the log file ${settings.file}: ${messageOf(error)}; logging to stderr`;
    }
  }
  destination ??= process.stderr.isTTY ? await terminalLines() : pino.destination({ dest: 2, sync: true });
  const logger = pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
  if (problem !== null) logger.warn(problem);
  return logger;
}

async function terminalLines(): Promise<DestinationStream> {
  const { default: pretty } = await import('pino-pretty');
  return pretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss' });
}
