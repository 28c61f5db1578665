import { fstatSync, openSync, writeSync } from 'node:fs';
import { pino, type DestinationStream, type Logger } from 'pino';
import { errnoOf, messageOf } from './errors.ts';

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
 * takes no line with it. Neither a log file that can't be opened nor a full
 * disk may keep WAL from being archived or handed out: then it is told on
 * stderr, and logged there.
 */
export async function createLogger(settings: LogSettings): Promise<Logger> {
  const level = LEVELS[settings.level.toUpperCase()] ?? 'info';
  const stderr = isTerminal() ? await terminalLines() : lines(2, () => {});
  let destination = stderr;
  if (settings.file !== null) {
    const { file } = settings;
    const tell = (what: string, error: unknown): void => {
      const msg = `can't ${what} the log file ${file}: ${messageOf(error)}; logging to stderr`;
      stderr.write(`${JSON.stringify({ level: 40, time: new Date().toISOString(), msg })}\n`);
    };
    try {
      let broken = false;
      destination = lines(openSync(file, 'a', 0o640), (error, line) => {
        if (!broken) tell('write to', error);
        broken = true;
        stderr.write(line);
      });
    } catch (error) {
      tell('open', error);
    }
  }
  return pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}

/** Looks before it asks: process.stderr takes milliseconds to set up, and get-wal is called for every segment. */
function isTerminal(): boolean {
  try {
    return fstatSync(2).isCharacterDevice() && process.stderr.isTTY;
  } catch {
    return false; // closed
  }
}

/** A reader that is slow gets this many milliseconds for a line, and then misses it. */
const PATIENCE_MS = 1_000;

/** Whole lines to a descriptor; what can't be written is handed to `onFailure`, never thrown. */
function lines(fd: number, onFailure: (error: unknown, line: string) => void): DestinationStream {
  return {
    write(line) {
      const bytes = Buffer.from(line);
      const deadline = Date.now() + PATIENCE_MS;
      let done = 0;
      while (done < bytes.length) {
        try {
          done += writeSync(fd, bytes, done);
        } catch (error) {
          // A full pipe: wait a little.
          if (errnoOf(error) !== 'EAGAIN' || Date.now() > deadline) return onFailure(error, line);
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
        }
      }
    },
  };
}

async function terminalLines(): Promise<DestinationStream> {
  const { default: pretty } = await import('pino-pretty');
  return pretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss' });
}
