import type { ErrorFile } from '../archiver/errors-directory.ts';
import { readDelivered } from '../durable/delivered-file.ts';
import { WalwardenError } from '../errors.ts';
import type { Server } from '../server.ts';
import { isSegmentSize, parseWalName, type WalName } from '../wal/wal-name.ts';

/** What was delivered and isn't understood, and may be all that there is of this WAL. */
export interface OnlyCopy {
  readonly state: 'only-copy';
  readonly wal: WalName;
  readonly text: string;
  readonly advice: string;
}

/**
 * A file that can't be archived as things are, when it has the name and the size
 * of this server's WAL, and the archive has nothing under that name: PostgreSQL
 * believes that it is archived, and may have removed its own. Null for any other.
 * `text`: why it isn't understood.
 */
export async function asOnlyCopy(server: Server, file: ErrorFile, text: string): Promise<OnlyCopy | null> {
  const parsed = parseWalName(file.name);
  if (parsed === undefined || (parsed.kind !== 'segment' && parsed.kind !== 'partial')) return null;
  const size = await sizeOf(server, file, parsed.name);
  const expected = await server.segmentSize();
  if (size === null || (expected === null ? !isSegmentSize(size) : size !== expected)) return null;
  if ((await server.strategy.stored([parsed.name])).has(parsed.name)) return null;
  return {
    state: 'only-copy',
    wal: parsed.name,
    text,
    advice:
      'it has the name and the size of WAL of this server, and nothing is archived under that name. PostgreSQL may have ' +
      'removed its own: leave it here. Once walwarden is upgraded to a version that knows this WAL, or the option is ' +
      `corrected by which it is read (verify_wal_header = off for headers that are encrypted; compression and its filters): walwarden errors retry ${server.name} ${file.entry}`,
  };
}

/** In bytes, without compression where that is recognised; null for what can't be read. */
async function sizeOf(server: Server, file: ErrorFile, name: WalName): Promise<number | null> {
  let bytes: Buffer;
  try {
    bytes = await readDelivered(server.errors.pathOf(file));
  } catch {
    return null;
  }
  try {
    return (await server.unpacker.unpack(bytes, name)).plain.length;
  } catch (error) {
    if (error instanceof WalwardenError) return bytes.length;
    throw error;
  }
}
