import { describe, expect, test } from 'vitest';
import {
  formatWalObjectMetadata,
  parseWalObjectMetadata,
  type WalObjectMetadata,
} from '../../../src/storage/s3/wal-object-metadata.ts';

const SHA256 = 'ab'.repeat(32);

const metadata: WalObjectMetadata = {
  size: 16 * 1024 * 1024,
  sha256: SHA256,
  mtime: 1_790_000_000.123_456,
  compression: 'zstd',
  encryption: null,
  version: '0.2.0',
};

describe('the metadata of a WAL object', () => {
  test('is plain ASCII text under our names', () => {
    expect(formatWalObjectMetadata(metadata)).toEqual({
      'walwarden-size': '16777216',
      'walwarden-sha256': SHA256,
      'walwarden-mtime': '1790000000.123456',
      'walwarden-compression': 'zstd',
      'walwarden-encryption': 'none',
      'walwarden-version': '0.2.0',
    });
  });

  test.each<Partial<WalObjectMetadata>>([
    {},
    { compression: null },
    { encryption: 'gpg' },
    { mtime: 0 },
    { mtime: -1.5 },
    { mtime: 1e-7 },
    { mtime: 1_790_000_000 },
    { size: 0 },
  ])('is read as it was written: %j', (change) => {
    const written = { ...metadata, ...change };
    expect(parseWalObjectMetadata(formatWalObjectMetadata(written))).toEqual(written);
  });

  test('is read whatever a service does to names and spaces', () => {
    const upper = Object.entries(formatWalObjectMetadata(metadata)).map(([name, value]) => [
      name.toUpperCase(),
      ` ${value} `,
    ]);
    expect(parseWalObjectMetadata(Object.fromEntries(upper))).toEqual(metadata);
  });

  test('says nothing of an object that others wrote', () => {
    const nothing = {
      size: null,
      sha256: null,
      mtime: null,
      compression: undefined,
      encryption: undefined,
      version: null,
    };
    expect(parseWalObjectMetadata({})).toEqual(nothing);
    expect(parseWalObjectMetadata({ mtime: '1700000000', 's3cmd-attrs': 'x' })).toEqual(nothing);
    expect(
      parseWalObjectMetadata({
        'walwarden-size': '-1',
        'walwarden-sha256': 'abc',
        'walwarden-mtime': 'yesterday',
        'walwarden-compression': 'rar',
        'walwarden-encryption': 'rot13',
        'walwarden-version': '',
      }),
    ).toEqual(nothing);
    expect(parseWalObjectMetadata({ 'walwarden-size': '9'.repeat(30) })).toEqual(nothing);
  });
});
