import type { CompressionName } from '../../src/compression/codec.ts';
import { run } from '../support/run.ts';

interface Tool {
  /** The command line that makes a file of this level. */
  compress(level: number): readonly string[];
  readonly decompress: readonly string[];
}

/**
 * python-snappy's stream classes. Debian 12's package raises SystemError in its
 * one C function for CRC-32C (built without PY_SSIZE_T_CLEAN): that function
 * alone is replaced, by one that owes nothing to ours.
 */
const python = (expression: string): readonly string[] => [
  '/usr/bin/python3',
  '-c',
  `
import sys, snappy.snappy as snappy
table = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82f63b78 if n & 1 else 0)
    table.append(n)
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff
snappy._crc32c = crc32c
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(${expression})
`,
];

const GZIP: Tool = { compress: (level) => ['gzip', '-n', '-c', `-${level}`], decompress: ['gzip', '-d', '-c'] };
const BZIP2: Tool = { compress: (level) => ['bzip2', '-c', `-${level}`], decompress: ['bzip2', '-d', '-c'] };

/** Everybody else's implementation of each format: what we write they must read, and the other way round. */
export const SYSTEM_TOOLS: Readonly<Record<Exclude<CompressionName, 'custom'>, Tool>> = {
  gzip: GZIP,
  pygzip: GZIP,
  pigz: { compress: (level) => ['pigz', '-c', `-${level}`], decompress: ['pigz', '-d', '-c'] },
  bzip2: BZIP2,
  pybzip2: BZIP2,
  xz: { compress: (level) => ['xz', '-c', `-${level}`], decompress: ['xz', '-d', '-c'] },
  zstd: {
    compress: (level) => ['zstd', '-q', '-c', ...(level < 0 ? [`--fast=${-level}`] : ['--ultra', `-${level || 3}`])],
    decompress: ['zstd', '-q', '-d', '-c'],
  },
  lz4: { compress: (level) => ['lz4', '-q', '-c', `-${Math.max(level, 1)}`], decompress: ['lz4', '-q', '-d', '-c'] },
  snappy: {
    compress: () => python('snappy.StreamCompressor().compress(data)'),
    decompress: python('snappy.StreamDecompressor().decompress(data)'),
  },
};

/** Runs one of them; a missing program or a failure is an error. */
export async function pipe([program = '', ...args]: readonly string[], input: Uint8Array): Promise<Buffer> {
  const { status, stderr, bytes } = await run(program, args, { input });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${status}: ${stderr}`);
  return bytes;
}
