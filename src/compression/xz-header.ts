/** Of a stream, in bytes (xz-file-format.txt, 2.1.1). */
const STREAM_HEADER_SIZE = 12;
const LZMA2 = 0x21;

/**
 * Bytes of the dictionary that the first block of an xz file is decompressed
 * with (xz-file-format.txt, 3.1 and 5.3.1); 0 where its header can't be read,
 * or uses no LZMA2: xz has something to say of those.
 */
export function firstDictionary(data: Buffer): number {
  const sizeByte = data[STREAM_HEADER_SIZE] ?? 0;
  const header = data.subarray(STREAM_HEADER_SIZE, STREAM_HEADER_SIZE + (sizeByte + 1) * 4);
  // 0 begins the index: there is no block.
  if (sizeByte === 0 || header.length < 8) return 0;
  const flags = header.readUInt8(1);
  const reader = { at: 2, data: header };
  // Compressed and uncompressed size, where they are given.
  for (const bit of [0x40, 0x80]) if ((flags & bit) !== 0) readNumber(reader);
  for (let filter = 0; filter <= (flags & 3); filter += 1) {
    const id = readNumber(reader);
    const properties = readNumber(reader);
    if (id === LZMA2) return dictionarySize(header[reader.at] ?? 0);
    reader.at += properties;
  }
  return 0;
}

/** Seven bits a byte, the lowest first, at most nine bytes (1.2). */
function readNumber(reader: { at: number; readonly data: Buffer }): number {
  let value = 0;
  for (let index = 0; index < 9; index += 1) {
    const byte = reader.data[reader.at] ?? 0;
    reader.at += 1;
    value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) break;
  }
  return value;
}

/** 2^n or 2^n + 2^(n-1), and 4 GiB - 1 for the last. */
function dictionarySize(bits: number): number {
  const value = bits & 0x3f;
  return value >= 40 ? 2 ** 32 - 1 : (2 | (value & 1)) * 2 ** (Math.floor(value / 2) + 11);
}
