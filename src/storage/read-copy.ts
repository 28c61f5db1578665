import { formatsOf } from '../compression/codecs.ts';
import { decompressBeginning } from '../compression/decompress-beginning.ts';
import { isGpgEncrypted } from '../encryption/gpg.ts';
import { WalwardenError } from '../errors.ts';
import type { CopyContent } from '../wal/judge-copies.ts';
import { MAX_SEGMENT_SIZE, type WalName } from '../wal/wal-name.ts';
import type { StoredCopy } from './replacement.ts';
import { decrypt, openStored, type ReadingKeys, type Said } from './stored-content.ts';
import type { Unpacker } from './unpacker.ts';

/**
 * A stored copy as the judge of copies wants it: its plain bytes, or what came out
 * before the damage, or why nothing can be told here. `said`: what others say of
 * its compression.
 */
export async function readCopy(copy: StoredCopy, said: Said, name: WalName, keys: ReadingKeys): Promise<CopyContent> {
  const { content } = copy;
  if (!Buffer.isBuffer(content)) return { kind: 'unreadable', ...content };
  try {
    const { plain, compression, verdict } = await openStored({ bytes: content, said }, name, keys);
    const isUnknown = verdict.verdict !== 'valid' && compression === null && plain.length > 0;
    // Whoever stored it may have had another configuration.
    if (isUnknown && keys.custom?.decompress === undefined && (await said()).includes('custom')) {
      const reason = 'it is said to be compressed by a filter, and there is no custom_decompression_filter here';
      return { kind: 'unreadable', reason, lost: false };
    }
    return { kind: 'plain', bytes: plain };
  } catch (error) {
    return whyNot(error, () => beginningOf(content, keys));
  }
}

/** The same of a file that was delivered. */
export async function readDelivery(
  bytes: Buffer,
  name: WalName,
  unpacker: Pick<Unpacker, 'unpack'>,
): Promise<CopyContent> {
  try {
    return { kind: 'plain', bytes: (await unpacker.unpack(bytes, name)).plain };
  } catch (error) {
    return whyNot(error, async () => Buffer.alloc(0));
  }
}

async function whyNot(error: unknown, beginning: () => Promise<Buffer>): Promise<CopyContent> {
  if (!(error instanceof WalwardenError) || error.code === 'aborted') throw error;
  const isBroken = error.code === 'damaged' || error.code === 'incomplete-wal';
  if (isBroken) return { kind: 'broken', reason: error.message, beginning: await beginning() };
  return { kind: 'unreadable', reason: error.message, lost: false };
}

/** Plain bytes from before the damage; none of what does not even decrypt. */
async function beginningOf(bytes: Buffer, keys: ReadingKeys): Promise<Buffer> {
  try {
    const decrypted = isGpgEncrypted(bytes) ? await decrypt(bytes, keys) : bytes;
    const [compression] = formatsOf(decrypted, keys.custom?.magic);
    if (compression === undefined) return Buffer.alloc(0);
    const options = { maxSize: MAX_SEGMENT_SIZE, custom: keys.custom };
    return await decompressBeginning(decrypted, compression, options);
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    return Buffer.alloc(0);
  }
}
