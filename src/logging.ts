import { closeSync, fstatSync, openSync, statSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { DestinationStream, Logger as Pino } from 'pino';
import { errnoOf, messageOf } from './errors.ts';

export interface LogSettings {
  /** JSON goes there; null means stderr. */
  readonly file: string | null;
  /** Barman's names of levels, or pino's. */
  readonly level: string;
}

export interface LogMethod {
  (facts: object, message: string): void;
  (message: string): void;
}

/** What we use of pino's loggers; never throws. */
export interface Logger {
  readonly debug: LogMethod;
  readonly info: LogMethod;
  readonly warn: LogMethod;
  readonly error: LogMethod;
}

/** Pino's numbers. */
const SEVERITY = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60 } as const;
type Severity = keyof typeof SEVERITY;

const LEVELS: Readonly<Record<string, Severity>> = {
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

const LOG_MODE = 0o640;

const load = createRequire(import.meta.url);

/**
 * The log of this process: JSON lines to a file, or to stderr when there is
 * none; on a terminal, lines for people. Written synchronously, so that a crash
 * takes no line with it. Neither a log file that can't be opened nor a full
 * disk may keep WAL from being archived or handed out: then it is told on
 * stderr, and logged there.
 */
export function createLogger(settings: LogSettings): Logger {
  const level = LEVELS[settings.level.toUpperCase()] ?? 'info';
  const file = settings.file === null ? null : openLogFile(settings.file);
  // Pino takes as long to load as a segment to decompress, and a get-wal that goes well logs nothing.
  let pino: Pino | null = null;
  const method = (severity: keyof Logger): LogMethod => {
    if (SEVERITY[severity] < SEVERITY[level]) return () => {};
    return (facts: object | string, message?: string) => {
      try {
        pino ??= startPino(level, file ?? stderrLines());
        if (typeof facts === 'string') pino[severity](facts);
        else pino[severity](facts, message);
      } catch (error) {
        const msg = typeof facts === 'string' ? facts : message;
        (file ?? rawStderr()).write(plainLine(SEVERITY[severity], msg, { incomplete: messageOf(error) }));
      }
    };
  };
  return { debug: method('debug'), info: method('info'), warn: method('warn'), error: method('error') };
}

function startPino(level: Severity, destination: DestinationStream): Pino {
  const { pino }: typeof import('pino') = load('pino');
  return pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}

/** A line that needs nothing to be loaded: there may be no file descriptor left to load it with. */
function plainLine(level: number, msg: string | undefined, facts: Readonly<Record<string, string>> = {}): string {
  return `${JSON.stringify({ level, time: new Date().toISOString(), pid: process.pid, ...facts, msg })}\n`;
}

/** Null when it can't be opened. */
function openLogFile(file: string): DestinationStream | null {
  const tell = (what: string, error: unknown): DestinationStream => {
    const stderr = stderrLines();
    const msg = `can't ${what} the log file ${file}: ${messageOf(error)}; logging to stderr`;
    stderr.write(plainLine(SEVERITY.warn, msg));
    return stderr;
  };
  try {
    let instead: DestinationStream | null = null;
    return lines(followFile(file), (error, line) => (instead ??= tell('write to', error)).write(line));
  } catch (error) {
    tell('open', error);
    return null;
  }
}

/** Looks for another file under the name of the log are so many milliseconds apart. */
const LOOK_MS = 1_000;

/** The descriptor to write to: logrotate renames the file of a process that never ends, and makes another. Throws when it can't be opened the first time. */
function followFile(file: string): () => number {
  let fd = openSync(file, 'a', LOG_MODE);
  let lookedAt = Date.now();
  return () => {
    // The clock may have been set back.
    if (Math.abs(Date.now() - lookedAt) < LOOK_MS) return fd;
    lookedAt = Date.now();
    try {
      const there = statSync(file, { throwIfNoEntry: false });
      const open = fstatSync(fd);
      // To open a fifo takes as long as nobody reads from it.
      const stays = there !== undefined && (!there.isFile() || (there.ino === open.ino && there.dev === open.dev));
      if (stays) return fd;
      const next = openSync(file, 'a', LOG_MODE);
      const old = fd;
      fd = next;
      closeSync(old);
    } catch {
      // The old file takes the line as well.
    }
    return fd;
  };
}

/** For people where there is a terminal, else as they are. */
function stderrLines(): DestinationStream {
  try {
    if (!isTerminal()) return rawStderr();
    const { PinoPretty }: typeof import('pino-pretty') = load('pino-pretty');
    return PinoPretty({ destination: 2, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss' });
  } catch {
    return rawStderr();
  }
}

/** Looks before it asks: process.stderr takes milliseconds to set up, and get-wal is called for every segment. */
function isTerminal(): boolean {
  try {
    return fstatSync(2).isCharacterDevice() && process.stderr.isTTY;
  } catch {
    return false; // closed
  }
}

function rawStderr(): DestinationStream {
  return lines(
    () => 2,
    () => {},
  );
}

/** A reader that is slow gets this many milliseconds for a line, and then misses it. */
const PATIENCE_MS = 1_000;

/** Whole lines to a descriptor; what can't be written is handed to `onFailure`, never thrown. */
function lines(descriptor: () => number, onFailure: (error: unknown, line: string) => void): DestinationStream {
  return {
    write(line) {
      const bytes = Buffer.from(line);
      const fd = descriptor();
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
