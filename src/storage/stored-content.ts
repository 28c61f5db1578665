import type { CompressionName, CustomFilters } from '../compression/codec.ts';
import { decompress, recogniseCompression } from '../compression/codecs.ts';
import { decryptGpg, isGpgEncrypted } from '../encryption/gpg.ts';
import { WalwardenError } from '../errors.ts';
import { MAX_SEGMENT_SIZE } from '../wal/wal-name.ts';

/** What is needed to read stored bytes back. */
export interface ReadingKeys {
  readonly custom?: CustomFilters | undefined;
  readonly passphraseCommand?: string | undefined;
  readonly gnupgHome?: string | undefined;
}

export interface StoredFormat {
  readonly compression: CompressionName | null;
  readonly encryption: 'gpg' | null;
}

/** What the first bytes of a stored file tell; the compression inside an encrypted one they don't. */
export function formatOf(head: Uint8Array, keys: ReadingKeys): StoredFormat {
  if (isGpgEncrypted(head)) return { compression: null, encryption: 'gpg' };
  return { compression: recogniseCompression(head, keys.custom?.magic), encryption: null };
}

/** Undoes the encryption of stored bytes, where there is one. */
export async function decrypt(bytes: Buffer, keys: ReadingKeys): Promise<Buffer> {
  if (!isGpgEncrypted(bytes)) return bytes;
  return decryptGpg(bytes, {
    maxSize: 2 * MAX_SEGMENT_SIZE,
    passphraseCommand: keys.passphraseCommand,
    homedir: keys.gnupgHome,
  });
}

/** Undoes the compression of decrypted bytes, where there is one. A file cut short is damaged here: nobody is writing it any more. */
export async function decompressStored(bytes: Buffer, keys: ReadingKeys): Promise<Buffer> {
  const compression = recogniseCompression(bytes, keys.custom?.magic);
  if (compression === null) return bytes;
  try {
    return await decompress(bytes, compression, { maxSize: MAX_SEGMENT_SIZE, custom: keys.custom });
  } catch (error) {
    if (error instanceof WalwardenError && error.code === 'incomplete-wal') {
      throw new WalwardenError('damaged', error.message, { cause: error });
    }
    throw error;
  }
}

/** The plain bytes of a stored file. Throws `damaged` when it doesn't read back, `program` when a key or a program is missing. */
export async function plainBytes(bytes: Buffer, keys: ReadingKeys): Promise<Buffer> {
  return decompressStored(await decrypt(bytes, keys), keys);
}
