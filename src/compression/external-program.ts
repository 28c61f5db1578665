import { spawn, type ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { collectGarbage } from './collect-garbage.ts';
import { WalwardenError, errnoOf, messageOf } from '../errors.ts';
import { killGroup, registerProgram } from './running-programs.ts';

/** A program found through PATH, or a command line for the shell, as users configure filters. */
export type Command = { readonly program: string; readonly args: readonly string[] } | { readonly shell: string };

export interface FilterOptions {
  /** Bytes of stdout; with one more the program is killed. */
  readonly maxOutput: number;
  /** In place of our own environment. */
  readonly env?: NodeJS.ProcessEnv;
  /** What the program can read from its descriptor 3: secrets, which argv and the environment would show to others. */
  readonly extraInput?: Uint8Array;
  /** Kills the program. */
  readonly signal?: AbortSignal | undefined;
}

/** How a program ended. A status other than 0 is a value: what it means, the caller knows. */
export interface FilterEnd {
  readonly output: Buffer;
  readonly status: number | null;
  readonly killedBy: NodeJS.Signals | null;
  /** The beginning of its stderr. */
  readonly messages: string;
  /** It was killed because it gave more than `maxOutput`. */
  readonly tooMuch: boolean;
}

/** Debian's package of each program that we may call. */
const PACKAGES: Readonly<Record<string, string>> = {
  bzip2: 'bzip2',
  gpg: 'gpg',
  lz4: 'lz4',
  pigz: 'pigz',
  xz: 'xz-utils',
};

const LIMIT_HINTS: Readonly<Record<string, string>> = {
  EAGAIN: 'allow more processes (ulimit -u; systemd: TasksMax)',
  EMFILE: 'allow more open files (ulimit -n; systemd: LimitNOFILE)',
};

/** Variables by which compressors take options behind our back: a level that is not the configured one, other formats, limits. */
const OPTION_VARIABLES = ['BZIP', 'BZIP2', 'GZIP', 'LZ4_CLEVEL', 'LZ4_NBWORKERS', 'PIGZ', 'XZ_DEFAULTS', 'XZ_OPT'];

const MAX_MESSAGES = 64 * 1024;

/**
 * Runs a program with these bytes on stdin and collects its stdout. Resolves
 * when it has ended and nothing of it is left, whatever its exit status.
 *
 * @throws WalwardenError `program` when it can't be started, `aborted` when the signal fires
 */
export async function runFilter(command: Command, input: Uint8Array, options: FilterOptions): Promise<FilterEnd> {
  throwIfAborted(options.signal, command);
  const stdio: 'pipe'[] =
    options.extraInput === undefined ? ['pipe', 'pipe', 'pipe'] : ['pipe', 'pipe', 'pipe', 'pipe'];
  const { child, ended } = start(command, stdio, options.env ?? process.env);
  // It throws: without a process there may be no pipes either.
  if (child.pid === undefined) await ended;
  const output = new BoundedOutput(child.stdout, options.maxOutput, () => kill(child));
  const messages = new BoundedOutput(child.stderr, MAX_MESSAGES);
  feed(child, input, options.extraInput);
  const onAbort = (): void => kill(child);
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const { status, killedBy } = await ended;
    throwIfAborted(options.signal, command);
    return { output: output.bytes(), status, killedBy, messages: messages.bytes().toString(), tooMuch: output.tooMuch };
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
  }
}

/**
 * {@link runFilter} for a program that has to succeed.
 *
 * @throws WalwardenError `program` when it is missing, fails or gives more than `maxOutput`; `aborted` when the signal fires
 */
export async function pipeThrough(
  program: string,
  args: readonly string[],
  input: Uint8Array,
  options: FilterOptions,
): Promise<Buffer> {
  return succeed({ program, args }, input, options);
}

/** {@link pipeThrough} for a command line of the user, run by `sh -c`. */
export async function pipeThroughShell(
  commandLine: string,
  input: Uint8Array,
  options: FilterOptions,
): Promise<Buffer> {
  return succeed({ shell: commandLine }, input, options);
}

/**
 * Runs a program from one open file to another: its bytes don't come through
 * our memory. The descriptors stay ours; the source is read from where it stands.
 *
 * @throws WalwardenError as {@link pipeThrough}
 */
export async function filterFile(
  command: Command,
  source: number,
  target: number,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const { child, ended } = start(command, [source, target, 'pipe'], env);
  const messages = new BoundedOutput(child.stderr, MAX_MESSAGES);
  const { status, killedBy } = await ended;
  if (status === 0) return;
  const end = { output: Buffer.alloc(0), status, killedBy, messages: messages.bytes().toString(), tooMuch: false };
  throw programFailed(command, end, 0);
}

async function succeed(command: Command, input: Uint8Array, options: FilterOptions): Promise<Buffer> {
  const end = await runFilter(command, input, options);
  if (end.tooMuch || end.status !== 0) throw programFailed(command, end, options.maxOutput);
  return end.output;
}

/** The error for a program that ended badly: who, how, and what it said. */
export function programFailed(command: Command, end: FilterEnd, maxOutput: number): WalwardenError {
  const how = end.tooMuch
    ? `was stopped after ${maxOutput} bytes of output`
    : end.status === null
      ? `was killed by ${end.killedBy ?? 'a signal'}`
      : `ended with exit status ${end.status}`;
  const reason = reasonIn(end.messages);
  return new WalwardenError('program', `${nameOf(command)} ${how}${reason === '' ? '' : `: ${reason}`}`);
}

/** The first line of a program's messages that says something, without its own name in front. */
export function reasonIn(messages: string): string {
  const line = messages.split(/[\n\r]/).find((text) => text.trim() !== '') ?? '';
  return line
    .trim()
    .replace(/^[a-z0-9]+: (\(stdin\):? )?/, '')
    .replace(/[ .;:]+$/, '')
    .slice(0, 300);
}

function nameOf(command: Command): string {
  return 'shell' in command ? `the filter ${JSON.stringify(command.shell)}` : command.program;
}

/** More than any compressor makes of so many bytes, base64 in a user's filter included. */
export function maxCompressedSize(size: number): number {
  return 2 * size + 1024 * 1024;
}

/** The environment for a program whose behaviour and messages must not depend on the user's. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C.UTF-8', LANGUAGE: 'C' };
  for (const name of OPTION_VARIABLES) delete env[name];
  return env;
}

/** A user's filter may mean its variables; for our own programs they would be behind our back. */
export function environmentOf(command: Command): NodeJS.ProcessEnv {
  return 'shell' in command ? process.env : plainEnvironment();
}

interface RunningProgram {
  /** Without a pid nothing was started, and `ended` rejects. Node then may leave out even the streams. */
  readonly child: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly killedBy: NodeJS.Signals | null }>;
}

function start(command: Command, stdio: ('pipe' | number)[], env: NodeJS.ProcessEnv): RunningProgram {
  const child = spawnGroup(command, stdio, env);
  const ended: RunningProgram['ended'] = new Promise((resolve, reject) => {
    // The first listener of all: an 'error' that nobody hears ends us.
    child.on('error', (error) => {
      // Only "not started" ends it; any other leaves a process whose end is still to come.
      if (child.pid === undefined) reject(startError(command, error));
    });
    // 'close', not 'exit': only then all of its output has arrived.
    child.once('close', (status, killedBy) => resolve({ status, killedBy }));
  });
  // In a group of its own it gets no signal of our terminal.
  if (child.pid !== undefined) child.once('close', registerProgram(child.pid));
  return { child, ended };
}

/**
 * In a process group of its own: what a terminal sends to ours at Ctrl-C must
 * not end the file in hand, and all that a command line starts ends together.
 */
function spawnGroup(command: Command, stdio: ('pipe' | number)[], env: NodeJS.ProcessEnv): ChildProcess {
  try {
    return 'shell' in command
      ? spawn('sh', ['-c', command.shell], { stdio, env, detached: true })
      : spawn(command.program, command.args, { stdio, env, detached: true });
  } catch (error) {
    throw startError(command, error);
  }
}

function startError(command: Command, cause: unknown): WalwardenError {
  const program = 'shell' in command ? 'sh' : command.program;
  if (errnoOf(cause) !== 'ENOENT') {
    const hint = LIMIT_HINTS[errnoOf(cause) ?? ''];
    return new WalwardenError('program', `${program} can't be started: ${messageOf(cause)}`, {
      cause,
      ...(hint === undefined ? {} : { hint }),
    });
  }
  const debianPackage = PACKAGES[program];
  return new WalwardenError('program', `the program ${program} is not found in PATH`, {
    cause,
    hint: debianPackage === undefined ? `install ${program}` : `install it (Debian: apt-get install ${debianPackage})`,
  });
}

function throwIfAborted(signal: AbortSignal | undefined, command: Command): void {
  if (signal?.aborted === true) throw new WalwardenError('aborted', `${nameOf(command)} was stopped`);
}

function feed(child: ChildProcess, input: Uint8Array, extraInput: Uint8Array | undefined): void {
  // EPIPE: the program ended before it read everything. Its exit status tells whether that is an error.
  const endedEarly = (): undefined => undefined;
  child.stdin?.on('error', endedEarly);
  child.stdin?.end(input);
  const extra = child.stdio[3];
  if (extraInput !== undefined && extra !== null && extra !== undefined && 'end' in extra) {
    extra.on('error', endedEarly);
    extra.end(extraInput);
  }
}

function kill(child: ChildProcess): void {
  if (child.pid !== undefined) killGroup(child.pid);
  // Something that left the group may hold the pipes: don't wait for it.
  for (const stream of child.stdio) stream?.destroy();
}

/** What a program's output is collected in at first; four times as much whenever that is full. */
const SMALLEST_OUTPUT = 256 * 1024;
/** Of a segment of the usual size, the whole. */
const USUAL_OUTPUT = 16 * 1024 * 1024;

/**
 * Collects a stream up to a limit; what comes beyond it is dropped. Pieces are
 * copied as they come, into memory that becomes the result: a list of them
 * would be a second copy of it, and they are of the size that fragments the heap.
 */
class BoundedOutput {
  #output = Buffer.alloc(0);
  readonly #limit: number;
  #size = 0;
  tooMuch = false;

  constructor(stream: Readable | null, limit: number, onTooMuch?: () => void) {
    this.#limit = limit;
    stream?.on('data', (piece: Buffer) => {
      if (this.tooMuch) return;
      const taken = Math.min(piece.length, limit - this.#size);
      this.#makeRoom(taken);
      piece.copy(this.#output, this.#size, 0, taken);
      this.#size += taken;
      collectGarbage(piece.length);
      if (taken < piece.length) {
        this.tooMuch = true;
        onTooMuch?.();
      }
    });
    stream?.on('error', () => undefined);
  }

  bytes(): Buffer {
    return this.#output.subarray(0, this.#size);
  }

  #makeRoom(bytes: number): void {
    const size = this.#size + bytes;
    if (size <= this.#output.length) return;
    const step = size > SMALLEST_OUTPUT ? Math.max(USUAL_OUTPUT, 4 * this.#output.length) : SMALLEST_OUTPUT;
    // What is not written of it takes no memory.
    const larger = Buffer.allocUnsafeSlow(Math.min(Math.max(step, size), this.#limit));
    this.#output.copy(larger, 0, 0, this.#size);
    this.#output = larger;
  }
}
