import { COMPRESSION_NAMES, type CompressionName, type CustomFilters } from '../compression/codec.ts';
import { decompress, formatsOf } from '../compression/codecs.ts';
import { decryptGpg, isGpgEncrypted } from '../encryption/gpg.ts';
import { WalwardenError } from '../errors.ts';
import { judgeContent, type OpaqueWal, type Verdict } from '../wal/verify.ts';
import { isSegmentSize, MAX_SEGMENT_SIZE, parseWalName, walKind, type WalName } from '../wal/wal-name.ts';

/** What is needed to read stored bytes back. */
export interface ReadingKeys {
  readonly custom?: CustomFilters | undefined;
  /** The configured compression. */
  readonly compression?: CompressionName | null | undefined;
  /** Looked at for each file; null where headers are verified. */
  readonly opaque?: OpaqueWal | null | undefined;
  readonly passphraseCommand?: string | undefined;
  readonly gnupgHome?: string | undefined;
}

/** Stored bytes, and what others say of how they are compressed, the likeliest first: their catalogue line, their key, their metadata. */
export interface StoredBytes {
  readonly bytes: Buffer;
  readonly said?: Said | undefined;
}

/** Asked only where the bytes don't tell. Null stands for no compression. */
export type Said = () => Promise<readonly (string | null)[]>;

/** A WAL file that was read back. */
export interface OpenedWal {
  /** Without encryption, still compressed. */
  readonly decrypted: Buffer;
  readonly plain: Buffer;
  readonly compression: CompressionName | null;
  readonly encryption: 'gpg' | null;
  /** What the plain bytes say of the name. */
  readonly verdict: Verdict;
}

/** Undoes the encryption of stored bytes. */
export function decrypt(bytes: Buffer, keys: ReadingKeys): Promise<Buffer> {
  return decryptGpg(bytes, {
    maxSize: 2 * MAX_SEGMENT_SIZE,
    passphraseCommand: keys.passphraseCommand,
    homedir: keys.gnupgHome,
  });
}

/**
 * Reads a stored file back. What its first bytes tell is tried first; where they
 * tell nothing, or the result is not the WAL file of this name, what others say
 * and what is configured. The first result that is this WAL file is it.
 * `custom` is never guessed from bytes alone: a filter may make anything of
 * anything.
 *
 * Where nothing gives this WAL file, the result is the likeliest one with its
 * verdict. Throws `damaged` when it doesn't read back; `program` when a key or a
 * program is missing, or the user's filter may be the wrong one, so that
 * the file may be as good as ever.
 */
export async function openStored(stored: StoredBytes, name: WalName, keys: ReadingKeys): Promise<OpenedWal> {
  const { bytes: asStored } = stored;
  if (isOpaque(name, keys)) {
    // Encrypted pages may begin like anything.
    const verdict = verdictOf(name, asStored, keys);
    if (verdict.verdict === 'valid') {
      return { decrypted: asStored, plain: asStored, compression: null, encryption: null, verdict };
    }
  }
  if (!isGpgEncrypted(stored.bytes)) return openDecrypted(stored, name, keys, null);
  let inside: OpenedWal | null = null;
  let problem: unknown = null;
  try {
    const bytes = await decrypt(stored.bytes, keys);
    inside = await openDecrypted({ ...stored, bytes }, name, keys, 'gpg');
    if (inside.verdict.verdict === 'valid') return inside;
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    problem = error;
  }
  // What a user's filter writes may begin like a message by chance, or be one.
  const bare = keys.custom?.decompress === undefined ? null : await tryCompression(stored.bytes, 'custom', name, keys);
  if (bare !== null && 'plain' in bare && bare.verdict.verdict === 'valid') {
    return { ...bare, decrypted: stored.bytes, encryption: null };
  }
  if (inside === null) throw problem;
  return inside;
}

/** Whether this is WAL whose size alone says that it is whole. */
export function isOpaque(
  name: WalName,
  { opaque = null }: { readonly opaque?: OpaqueWal | null | undefined },
): boolean {
  return opaque !== null && (walKind(name) === 'segment' || walKind(name) === 'partial');
}

/** The plain bytes of a stored file, whatever they are. Throws as {@link openStored}. */
export async function plainBytes(stored: StoredBytes, name: WalName, keys: ReadingKeys): Promise<Buffer> {
  return (await openStored(stored, name, keys)).plain;
}

/** {@link plainBytes} with the keys that it needs, wherever that is done. */
export type ReadPlain = (stored: StoredBytes, name: WalName) => Promise<Buffer>;

type Attempt = Pick<OpenedWal, 'plain' | 'compression' | 'verdict'> | { readonly error: WalwardenError };

async function openDecrypted(
  stored: StoredBytes,
  name: WalName,
  keys: ReadingKeys,
  encryption: 'gpg' | null,
): Promise<OpenedWal> {
  const { bytes } = stored;
  const tried = new Map<CompressionName | null, Attempt>();
  for await (const compression of candidates(stored, name, keys)) {
    if (tried.has(compression)) continue;
    const attempt = await tryCompression(bytes, compression, name, keys);
    if ('plain' in attempt && attempt.verdict.verdict === 'valid') return { ...attempt, decrypted: bytes, encryption };
    tried.set(compression, attempt);
  }
  const [first] = tried.values();
  const custom = tried.get('custom');
  if (first === undefined) throw new Error('nothing was tried');
  const untouched = tried.get(null);
  // A file that was never compressed, and is cut short.
  if (untouched !== undefined && 'plain' in untouched && untouched.verdict.verdict === 'incomplete') {
    return { ...untouched, decrypted: bytes, encryption };
  }
  if (custom !== undefined && !(await isSaidToBeAnother(stored))) throw customFailed(custom);
  if ('error' in first) throw first.error;
  return { ...first, decrypted: bytes, encryption };
}

/** What may have compressed decrypted bytes, the likeliest first; null for nothing. May name one twice. */
async function* candidates(
  { bytes, said }: StoredBytes,
  name: WalName,
  keys: ReadingKeys,
): AsyncGenerator<CompressionName | null> {
  yield* formatsOf(bytes, keys.custom?.magic);
  // All other formats tell themselves by their bytes.
  if (keys.custom?.decompress !== undefined) {
    // What a filter leaves of a file may look like a plain one: `tr` changes no page header, and nothing that makes a history file invalid.
    if (verdictOf(name, bytes, keys).verdict === 'valid') {
      for (const told of (await said?.()) ?? []) {
        const known = told === null ? null : COMPRESSION_NAMES.find((compression) => compression === told);
        if (known !== undefined) yield known;
      }
      if (keys.compression !== 'custom') yield null;
    }
    yield 'custom';
  }
  yield null;
}

/** A filter that does not undo it proves nothing, unless others say that no filter was at work. `None` is what a catalogue says that forgot it. */
async function isSaidToBeAnother({ said }: StoredBytes): Promise<boolean> {
  return ((await said?.()) ?? []).some((told) => told !== null && told !== 'custom');
}

/** Undoes one compression. A file cut short is damaged here: nobody is writing it any more. */
async function tryCompression(
  bytes: Buffer,
  compression: CompressionName | null,
  name: WalName,
  keys: ReadingKeys,
): Promise<Attempt> {
  if (compression === null) return { plain: bytes, compression, verdict: verdictOf(name, bytes, keys) };
  try {
    const plain = await decompress(bytes, compression, { maxSize: MAX_SEGMENT_SIZE, custom: keys.custom });
    return { plain, compression, verdict: verdictOf(name, plain, keys) };
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    const isCut = error.code === 'incomplete-wal';
    return { error: isCut ? new WalwardenError('damaged', error.message, { cause: error }) : error };
  }
}

function verdictOf(name: WalName, plain: Buffer, { opaque = null }: ReadingKeys): Verdict {
  const parsed = parseWalName(name);
  if (parsed === undefined) return { verdict: 'invalid', reason: `${name} is not the name of a WAL file` };
  if (opaque === null || opaque.segmentSize !== null) return judgeContent(parsed, plain, opaque);
  // Only what is whole was archived, when the size was known.
  return judgeContent(parsed, plain, { segmentSize: isSegmentSize(plain.length) ? plain.length : null });
}

/** It may be whole behind a filter that is another one now: that can't be told. */
function customFailed(attempt: Attempt): WalwardenError {
  const hint = 'is custom_decompression_filter the one that undoes what wrote this file?';
  if ('error' in attempt) {
    if (attempt.error.code === 'aborted') return attempt.error;
    return new WalwardenError('program', attempt.error.message, { cause: attempt.error, hint });
  }
  const { verdict } = attempt;
  const reason = verdict.verdict === 'valid' ? 'nothing' : verdict.reason;
  return new WalwardenError('program', `custom_decompression_filter does not make this WAL file of it: ${reason}`, {
    hint,
  });
}
