import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { unpackDelivered } from '../../src/storage/delivered-content.ts';
import { openStored } from '../../src/storage/stored-content.ts';
import { makeWal } from '../support/make-wal.ts';

const MIB = 1024 * 1024;
const { name } = makeWal({ segment: 1 });

describe('with verify_wal_header = off, a segment whose encrypted pages happen to begin like', () => {
  test.each([
    ['gzip', '1f8b08'],
    ['bzip2', '425a68'],
    ['xz', 'fd377a585a00'],
    ['zstd', '28b52ffd'],
    ['lz4', '04224d18'],
    ['snappy', 'ff060000734e61507059'],
    ['a message of gpg', '850103'],
  ])('%s is the plain segment, delivered and read back, also while the size is not known', async (_what, magic) => {
    const bytes = randomBytes(MIB);
    bytes.set(Buffer.from(magic, 'hex'));
    const opaque = { segmentSize: MIB };
    expect(await unpackDelivered(bytes, name, { opaque, segmentSize: MIB })).toMatchObject({ compression: null });
    for (const known of [opaque, { segmentSize: null }]) {
      const opened = await openStored({ bytes }, name, { opaque: known });
      expect(opened).toMatchObject({ compression: null, encryption: null, verdict: { verdict: 'valid' } });
      expect(opened.plain.equals(bytes)).toBe(true);
    }
  });
});
