import { createHash } from 'node:crypto';
import { pack, type Header } from 'tar-stream';

export interface TarEntry {
  readonly name: string;
  readonly bytes?: Buffer;
  /** Seconds since the epoch. */
  readonly mtime?: number;
  readonly type?: NonNullable<Header['type']>;
}

/** A tar stream as put-wal reads it, whatever is in it. */
export async function makeTar(entries: readonly TarEntry[]): Promise<Buffer> {
  const packer = pack();
  for (const { name, bytes = Buffer.alloc(0), mtime = 1_700_000_000, type = 'file' } of entries) {
    // A pax header carries the fraction, as Python's tarfile writes it.
    const pax = Number.isInteger(mtime) ? {} : { pax: { mtime: String(mtime) } };
    const link = type === 'symlink' || type === 'link' ? { linkname: 'elsewhere' } : {};
    packer.entry({ name, type, mtime: new Date(mtime * 1000), mode: 0o600, ...pax, ...link }, bytes);
  }
  packer.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of packer) chunks.push(Buffer.isBuffer(chunk) ? chunk : Buffer.from(String(chunk)));
  return Buffer.concat(chunks);
}

/** A checksum file of these entries. */
export function sumsOf(entries: readonly TarEntry[], algorithm: 'sha256' | 'md5' = 'sha256'): TarEntry {
  const lines = entries.map(
    ({ name, bytes = Buffer.alloc(0) }) => `${createHash(algorithm).update(bytes).digest('hex')} *${name}\n`,
  );
  return { name: algorithm === 'md5' ? 'MD5SUMS' : 'SHA256SUMS', bytes: Buffer.from(lines.join('')) };
}

/** The stream that barman-wal-archive would send for these files: sums at the end. */
export function deliveryOf(entries: readonly TarEntry[], algorithm: 'sha256' | 'md5' = 'sha256'): Promise<Buffer> {
  return makeTar([...entries, sumsOf(entries, algorithm)]);
}
