import type { CompressionName, CompressionSettings, CustomFilters } from '../compression/codec.ts';
import { createCompressor, decompress } from '../compression/codecs.ts';
import { encryptGpg } from '../encryption/gpg.ts';
import { WalwardenError } from '../errors.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';
import { sha256 } from './sha256.ts';

/** One stored copy of a WAL file as it lies there, whatever its digests say of it. */
export interface StoredCopy {
  readonly path: string;
  /** By this the storage recognises it when it is to be replaced: what was judged, and nothing that came later. */
  readonly version: string;
  /** Stored bytes, or why they can't be had; `lost` when it is the disk that does not give them back. */
  readonly content: Buffer | { readonly reason: string; readonly lost: boolean };
  /** Of the original file, in seconds since the epoch. */
  readonly mtime: number;
  /** The compression that its key names; undefined where names say nothing. */
  readonly compression?: CompressionName | null | undefined;
}

/** What takes the place of a damaged copy. Its bytes are in memory: those that were judged are those that are stored. */
export interface Replacement {
  readonly name: WalName;
  /** Where it lies, for hook scripts. */
  readonly source: string;
  /** As it was delivered. */
  readonly delivered: Buffer;
  /** What it was delivered with; null for plain. */
  readonly compression: CompressionName | null;
  readonly plain: Buffer;
  /** In bytes; null for what is no segment. */
  readonly segmentSize: number | null;
  readonly mtime: number;
}

export type ReplaceResult =
  /** Durable, with its line. `kept`: where the copy is that was there before; null when it could not be kept. */
  | { readonly outcome: 'replaced'; readonly info: WalFileInfo; readonly kept: string | null }
  /** Nothing was changed. `byHand`: what a person may do before the file is archived in the usual way. */
  | { readonly outcome: 'refused'; readonly reason: string; readonly byHand?: string };

/** The bytes to store, and what the catalogue and the journal say of them. */
export interface PackedReplacement {
  readonly stored: Buffer;
  readonly info: WalFileInfo;
  readonly digests: { readonly plain: string; readonly stored: string };
}

export interface PackingSettings {
  readonly compression: CompressionSettings | null;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly custom?: CustomFilters | undefined;
}

/**
 * Compresses and encrypts what takes the place of another, in memory. What was
 * delivered compressed stays as it is, unless `exactly` this compression is
 * wanted. Read back before it is encrypted: a filter that writes what can't be
 * read must not take the place of anything.
 */
export async function packReplacement(
  { name, delivered, compression: arrived, plain, mtime }: Replacement,
  { compression, encryption, custom }: PackingSettings,
  exactly: boolean,
): Promise<PackedReplacement> {
  const asItIs = exactly ? arrived === (compression?.compression ?? null) : arrived !== null;
  const used = asItIs ? arrived : (compression?.compression ?? null);
  const packed = asItIs || compression === null ? (asItIs ? delivered : plain) : await compress(plain, compression);
  if (used !== null) {
    const again = await decompress(packed, used, { maxSize: plain.length, custom });
    if (!again.equals(plain)) {
      throw new WalwardenError('program', `compression = ${used} does not give back what it was given`, {
        hint: 'correct the filters of custom compression; nothing was replaced',
      });
    }
  }
  const stored = encryption === null ? packed : await encryptGpg(packed, encryption);
  return {
    stored,
    info: { name, size: stored.length, mtime, compression: used, encryption: encryption === null ? null : 'gpg' },
    digests: { plain: sha256(plain), stored: sha256(stored) },
  };
}

function compress(plain: Buffer, settings: CompressionSettings): Promise<Buffer> {
  return createCompressor(settings).compress(plain);
}
