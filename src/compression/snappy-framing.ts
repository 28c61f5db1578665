import { WalwardenError, messageOf } from '../errors.ts';
import type { Codec, DecompressOptions } from './codec.ts';
import { asBuffer, cutShort, damaged, tooLarge } from './decompress-errors.ts';

/** The stream identifier, a chunk of type 0xff. */
const STREAM_IDENTIFIER = Buffer.from('ff060000734e61507059', 'hex');
const MAX_CHUNK_CONTENT = 65536;
const COMPRESSED = 0x00;
const UNCOMPRESSED = 0x01;
const FIRST_SKIPPABLE = 0x80;
const IDENTIFIER = 0xff;

/**
 * Snappy's framing format (google/snappy/framing_format.txt). Each chunk has a
 * CRC-32C, the stream has neither size nor end: a cut between two chunks can't
 * be told, the caller has to know how much it expects.
 */
export const SNAPPY: Codec = {
  extension: '.snappy',
  magic: STREAM_IDENTIFIER,
  inMemory: true,
  levels: null,
  compressor: () => async (data) => {
    // The library writes nothing at all for nothing.
    if (data.length === 0) return Buffer.from(STREAM_IDENTIFIER);
    const { Compressor } = (await import('snappy')).default;
    const stream = new Compressor();
    return Buffer.concat([stream.update(data), await stream.finish()]);
  },
  decompress: unsnappy,
};

interface Chunk {
  readonly compressed: boolean;
  readonly checksum: number;
  readonly body: Buffer;
  /** Bytes that it decompresses to. */
  readonly size: number;
}

async function unsnappy(data: Uint8Array, { maxSize }: DecompressOptions): Promise<Buffer> {
  const [{ uncompressSync }, { crc32c }] = await Promise.all([
    import('snappy').then((module) => module.default),
    import('@node-rs/crc32').then((module) => module.default),
  ]);
  let size = 0;
  // Walked over twice: a list of millions of tiny chunks takes more memory than any content.
  for (const chunk of chunksOf(asBuffer(data))) {
    size += chunk.size;
    if (size > maxSize) throw tooLarge('snappy', maxSize);
  }
  const content = Buffer.allocUnsafeSlow(size);
  let at = 0;
  for (const chunk of chunksOf(asBuffer(data))) {
    try {
      // The copy that the option asks for is cheaper than registering a foreign buffer for so few bytes.
      const bytes = chunk.compressed ? uncompressSync(chunk.body, { copyOutputData: true }) : chunk.body;
      if (bytes.length !== chunk.size) throw damaged('snappy', 'a chunk has not the size that it promises');
      if (typeof bytes === 'string') throw new TypeError('snappy gave a string');
      if (masked(crc32c(bytes)) !== chunk.checksum) throw damaged('snappy', 'a checksum does not match');
      content.set(bytes, at);
    } catch (error) {
      throw error instanceof WalwardenError ? error : damaged('snappy', messageOf(error), error);
    }
    at += chunk.size;
  }
  return content;
}

/** The chunks with content, and the bytes that they will decompress to; nothing is decompressed. */
function* chunksOf(data: Buffer): Generator<Chunk> {
  for (let at = 0; at < data.length;) {
    if (at + 4 > data.length) throw cutShort('snappy', 'the last chunk is not complete');
    const type = data.readUInt8(at);
    if (type > UNCOMPRESSED && type < FIRST_SKIPPABLE) throw damaged('snappy', `a chunk of the unknown type ${type}`);
    const end = at + 4 + data.readUIntLE(at + 1, 3);
    if (end > data.length) throw cutShort('snappy', 'the last chunk is not complete');
    if (type === IDENTIFIER && !data.subarray(at, end).equals(STREAM_IDENTIFIER)) {
      throw damaged('snappy', 'a wrong stream identifier');
    }
    if (type === COMPRESSED || type === UNCOMPRESSED) {
      yield readChunk(type, data.subarray(at + 4, end));
    }
    at = end;
  }
}

function readChunk(type: number, data: Buffer): Chunk {
  if (data.length < 4) throw damaged('snappy', 'a chunk without its checksum');
  const body = data.subarray(4);
  const compressed = type === COMPRESSED;
  const size = compressed ? promisedSize(body) : body.length;
  if (size > MAX_CHUNK_CONTENT) throw damaged('snappy', `a chunk of more than ${MAX_CHUNK_CONTENT} bytes`);
  return { compressed, checksum: data.readUInt32LE(0), body, size };
}

/** A raw block begins with its size, seven bits a byte, the lowest first. */
function promisedSize(block: Buffer): number {
  let size = 0;
  for (const [index, byte] of block.subarray(0, 5).entries()) {
    size += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) return size;
  }
  throw damaged('snappy', 'a chunk without its size');
}

/** The format stores CRCs rotated and shifted: data that holds its own CRC has a poor one. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
