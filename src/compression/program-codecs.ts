import { WalwardenError } from '../errors.ts';
import type { Codec, CustomFilters, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, isStartOf, startsWith, tooLarge } from './decompress-errors.ts';
import {
  environmentOf,
  maxCompressedSize,
  pipeThrough,
  pipeThroughShell,
  plainEnvironment,
  programFailed,
  reasonIn,
  runFilter,
  type Command,
  type FilterEnd,
} from './external-program.ts';
import { GZIP } from './gzip.ts';
import { firstDictionary } from './xz-header.ts';

const XZ_MAGIC = Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00);
const XZ_FOOTER_SIZE = 12;
/** What xz takes beside the dictionary, in bytes: a little, for any options. */
const XZ_OVERHEAD = 2 * 1024 * 1024;

/** bzip2 has no native library for Node that is worth its name; the program is everywhere. */
export const BZIP2: Codec = {
  extension: '.bz2',
  magic: Uint8Array.of(0x42, 0x5a, 0x68),
  inMemory: true,
  levels: { min: 1, max: 9, low: 1, medium: 5, high: 9 },
  ...byProgram('bzip2', (level) => ['-z', '-c', '-q', `-${level}`]),
  start: (data, length, { signal }) => startOf({ program: 'bzip2', args: ['-d', '-c', '-q'] }, data, length, signal),
  decompress: (data, options) =>
    decompressWith('bzip2', ['-d', '-c'], data, options, async (end) => {
      // It takes what follows the last stream for nothing worse than worth a message, exit status 0.
      if (/trailing garbage/.test(end.messages)) return damaged('bzip2', 'something else follows its end');
      if (/ends unexpectedly/.test(end.messages)) return cutShort('bzip2', reasonIn(end.messages));
      return end.status === 2 ? damaged('bzip2', reasonIn(end.messages)) : null;
    }),
};

/** xz with CRC-64, as the program and Python's lzma do by default. One thread: with more it splits the data into blocks. */
export const XZ: Codec = {
  extension: '.xz',
  magic: XZ_MAGIC,
  inMemory: true,
  levels: { min: 1, max: 9, low: 1, medium: 3, high: 5 },
  ...byProgram('xz', (level) => ['-z', '-c', '-q', '--format=xz', '--check=crc64', '-T1', `-${level}`]),
  start: async (data, length, { maxDictionary = Infinity, signal }) =>
    firstDictionary(asBuffer(data)) > maxDictionary
      ? null
      : startOf({ program: 'xz', args: ['-d', '-c', '-q', '--format=xz', '-T1'] }, data, length, signal),
  decompress: (data, options) => {
    const { maxDictionary } = options;
    if (maxDictionary !== undefined && firstDictionary(asBuffer(data)) > maxDictionary)
      throw dictionaryTooLarge(maxDictionary);
    const limit = maxDictionary === undefined ? [] : [`--memlimit-decompress=${maxDictionary + XZ_OVERHEAD}`];
    return decompressWith('xz', ['-d', '-c', '--format=xz', '-T1', ...limit], data, options, async (end) => {
      // Of a later block.
      if (maxDictionary !== undefined && /memory usage limit/i.test(end.messages))
        return dictionaryTooLarge(maxDictionary);
      if (/memory/i.test(end.messages)) return null;
      if (!/Unexpected end of input/.test(end.messages)) return damaged('xz', reasonIn(end.messages));
      return (await followsXzFooter(asBuffer(data)))
        ? damaged('xz', 'something else follows its end')
        : cutShort('xz', reasonIn(end.messages));
    });
  },
};

function dictionaryTooLarge(maxDictionary: number): WalwardenError {
  return damaged('xz', `it needs a dictionary of more than ${maxDictionary} bytes, which no delivered WAL may`);
}

/** gzip's format, compressed by the program pigz on all CPUs. */
export const PIGZ: Codec = {
  ...GZIP,
  inMemory: false,
  ...byProgram('pigz', (level) => ['-c', `-${level}`]),
};

/** The user's own filters. What their exit status means, only they know: of one that ran, we say that the data is damaged. */
export const CUSTOM: Codec = {
  extension: null,
  magic: null,
  inMemory: false,
  levels: null,
  compressor: (_level, custom) => {
    const filter = required(custom, 'compress');
    return (data, signal) => pipeThroughShell(filter, data, { maxOutput: maxCompressedSize(data.length), signal });
  },
  program: (_level, custom) => ({ shell: required(custom, 'compress') }),
  start: (data, length, { custom, signal }) => startOf({ shell: required(custom, 'decompress') }, data, length, signal),
  decompress: async (data, { maxSize, custom, signal }) => {
    const command = { shell: required(custom, 'decompress') };
    const end = await runFilter(command, data, { maxOutput: maxSize, signal });
    if (end.tooMuch) throw tooLarge('custom', maxSize);
    if (end.status === 0) return end.output;
    // 126 and 127 are the shell's: not executable, not found; above 128 it died of a signal.
    if (end.status === null || end.status >= 126) throw programFailed(command, end, maxSize);
    throw damaged('custom', programFailed(command, end, maxSize).message);
  },
};

/** What comes out first; the program is ended then, and what else it had to say, it says when it is run to its end. */
async function startOf(
  command: Command,
  data: Uint8Array,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  return (await runFilter(command, data, { maxOutput: length, env: environmentOf(command), signal })).output;
}

function required(custom: CustomFilters | undefined, direction: 'compress' | 'decompress'): string {
  const filter = custom?.[direction];
  if (filter === undefined || filter === '') {
    const option = `custom_${direction}ion_filter`;
    throw new WalwardenError('config', `custom compression needs ${option}`, {
      hint: `set ${option} to a shell command that reads stdin and writes stdout`,
    });
  }
  return filter;
}

/** How a program compresses, in memory and from file to file. */
function byProgram(
  program: string,
  argsFor: (level: number) => readonly string[],
): Pick<Codec, 'compressor' | 'program'> {
  return {
    compressor: (level) => (data, signal) =>
      pipeThrough(program, argsFor(level), data, {
        maxOutput: maxCompressedSize(data.length),
        env: plainEnvironment(),
        signal,
      }),
    program: (level) => ({ program, args: argsFor(level) }),
  };
}

/** `judge` says what is wrong with the data when the program had something to say, null when it was the program's own fault. */
async function decompressWith(
  program: string,
  args: readonly string[],
  data: Uint8Array,
  { maxSize, signal }: DecompressOptions,
  judge: (end: FilterEnd) => Promise<WalwardenError | null>,
): Promise<Buffer> {
  const command = { program, args };
  const end = await runFilter(command, data, { maxOutput: maxSize, env: plainEnvironment(), signal });
  if (end.tooMuch) throw tooLarge(program, maxSize);
  if (end.status === 0 && end.messages === '') return end.output;
  const verdict = end.status === null ? null : await judge(end);
  throw verdict ?? programFailed(command, end, maxSize);
}

/**
 * xz reads a header's twelve bytes before it looks at them, and calls fewer
 * "unexpected end". They are garbage when a stream's footer stands before them
 * (xz-file-format.txt, 2.1.2) and they don't begin another.
 */
async function followsXzFooter(data: Buffer): Promise<boolean> {
  const { crc32 } = await import('node:zlib');
  for (let garbage = 1; garbage < XZ_FOOTER_SIZE; garbage++) {
    const end = data.length - garbage;
    if (end < 2 * XZ_FOOTER_SIZE) return false;
    const footer = data.subarray(end - XZ_FOOTER_SIZE, end);
    const isFooter = footer.toString('latin1', 10) === 'YZ' && footer.readUInt32LE(0) === crc32(footer.subarray(4, 10));
    const tail = data.subarray(end);
    if (isFooter && !isStartOf(tail, XZ_MAGIC) && !startsWith(tail, XZ_MAGIC)) return true;
  }
  return false;
}
