import { failureOfMessage, hintFor, passesByItself, SHUT_DOWN, type FailureContext } from '../postgres/failure.ts';
import type { ReceiverEnd } from './receiver-process.ts';
import type { ReceiverCause } from './receiver-report.ts';

/** What a line of pg_receivewal means. */
export interface OutputLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** Without the program's name in front. */
  readonly text: string;
  /** The server is asked for WAL now. */
  readonly starts: boolean;
  /** It may be why pg_receivewal ends. */
  readonly trouble: boolean;
}

/** More than any of its messages has, and no more than a log should hold of one. */
const MAX_TEXT = 2_000;

/**
 * Understands one line of pg_receivewal's output (bin/pg_basebackup/{pg_receivewal,receivelog}.c,
 * common/logging.c). Until PostgreSQL 11 there is nothing but the words to tell
 * an error from a remark; later versions put `error:`, `fatal:` or `warning:` in front.
 */
export function readOutputLine(line: string): OutputLine {
  const [, severity, words] = /^(?:\S*pg_receivewal: )?(?:(error|fatal|warning|detail|hint): )?(.*)$/s.exec(line) ?? [];
  const text = (words ?? line).trim().slice(0, MAX_TEXT);
  const remark = REMARKS.find(([pattern]) => pattern.test(text));
  if (remark !== undefined) return { level: remark[1], text, starts: STARTS.test(text), trouble: false };
  if (severity === 'hint') return { level: 'info', text, starts: false, trouble: false };
  if (severity === 'warning') return { level: 'warn', text, starts: false, trouble: false };
  const passes = passesByItself(failureOfMessage(text));
  return { level: passes ? 'warn' : 'error', text, starts: false, trouble: true };
}

const STARTS = /^starting log streaming at /;

/** What it says without having to end for it. Anything else is trouble. */
const REMARKS: readonly [pattern: RegExp, level: 'debug' | 'info' | 'warn'][] = [
  [STARTS, 'info'],
  [/^switched to timeline /, 'info'],
  [/^stopped log streaming at /, 'info'],
  [/^received interrupt signal, exiting/, 'info'],
  // One for each segment, and one for each stop in the middle of a segment: nothing is lost.
  [/^finished segment at /, 'debug'],
  [/^not renaming ".*", segment is not complete/, 'debug'],
  [/^(?:compressed )?segment file ".*" has incorrect .*size .*, skipping/, 'warn'],
  // Debian's wrapper, about a choice that it doesn't have to make.
  [/^Warning: No existing cluster is suitable as a default target/, 'debug'],
  [/^$/, 'debug'],
];

/** Its own troubles with files: what the server or libpq can't do, says so in other words. */
const FILE_TROUBLE =
  /could not (?:open|close|read|access|stat|create|write|fsync|rename|get size of|determine seek position|finish writing)\b.*(?:directory|file|WAL)/;
const NO_SPACE = /No space left on device|Disk quota exceeded/;
const NOT_ALLOWED =
  /Permission denied|Read-only file system|Input\/output error|No such file or directory|Not a directory|Stale file handle|File exists|Transport endpoint/;
/** Files of libpq, which have nothing to do with ours. */
const LIBPQ_FILE = /certificate|private key|service file|password file|pgpass/;

/** Why pg_receivewal ended, from how it did and the lines in which it told its troubles. */
export function causeOfEnd(
  end: ReceiverEnd,
  troubles: readonly string[],
  directory: string,
  context: FailureContext,
): ReceiverCause {
  if (end.how === 'not-started') {
    const message = `pg_receivewal can't be started: ${end.why}`;
    return end.missing
      ? { failure: 'program-missing', message, hint: 'install util-linux' }
      : { failure: 'other', message, hint: 'allow more processes (ulimit -u; systemd: TasksMax)' };
  }
  if (end.how === 'killed') {
    const hint = end.signal === 'SIGKILL' ? "the kernel's log tells whether it ran out of memory (dmesg)" : null;
    return { failure: 'killed', message: `pg_receivewal was killed by ${end.signal}`, hint };
  }
  if (end.status === 0) {
    return {
      failure: 'killed',
      message: 'pg_receivewal ended with exit status 0: somebody else asked it to',
      hint: null,
    };
  }
  const how = `pg_receivewal ended with exit status ${end.status}`;
  const cause = causeOfTroubles(troubles, directory, context);
  return cause === null
    ? { failure: 'other', message: `${how} and said nothing`, hint: null }
    : { ...cause, message: `${how}: ${cause.message}` };
}

function causeOfTroubles(
  troubles: readonly string[],
  directory: string,
  context: FailureContext,
): ReceiverCause | null {
  const causes = withDetails(troubles).map((text) => causeOfTrouble(text, directory, context));
  // It ends with "disconnected" whatever happened; what came first explains what came after it.
  return (
    causes.find(({ failure, message }) => failure !== 'other' && !ENDS.test(message)) ??
    causes.findLast(({ message }) => !ENDS.test(message)) ??
    causes.at(-1) ??
    null
  );
}

const ENDS = /^disconnected/;

/** The server's DETAIL, in a line of its own, says which of several causes an error has. */
function withDetails(troubles: readonly string[]): string[] {
  const whole: string[] = [];
  for (const text of troubles) {
    if (/^(?:DETAIL|HINT): /.test(text) && whole.length > 0) whole.push(`${whole.pop()}; ${text}`);
    else whole.push(text);
  }
  return whole;
}

function causeOfTrouble(text: string, directory: string, context: FailureContext): ReceiverCause {
  if (FILE_TROUBLE.test(text) && !LIBPQ_FILE.test(text)) {
    if (NO_SPACE.test(text)) {
      return { failure: 'low-disk', message: text, hint: `make space on the file system of ${directory}` };
    }
    if (NOT_ALLOWED.test(text)) {
      const hint = `streaming_wals_directory is ${directory}: the user that walwarden runs as must be able to write there`;
      return { failure: 'directory', message: text, hint };
    }
  }
  const failure = failureOfMessage(text);
  const message = SHUT_DOWN.test(text) ? `the server shut down (${text})` : text;
  return { failure, message, hint: failure === 'other' ? null : hintFor(failure, { ...context, message }) };
}

/** Whether waiting may be enough for a cause; otherwise somebody has to do something first. */
export function causePasses({ failure }: ReceiverCause): boolean {
  if (failure === 'low-disk' || failure === 'killed' || failure === 'stalled') return true;
  if (failure === 'program-missing' || failure === 'directory') return false;
  return passesByItself(failure);
}
