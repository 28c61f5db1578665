import { describe, expect, test } from 'vitest';
import type { CompressionName } from '../../../src/compression/codec.ts';
import {
  buildWalObjectKey,
  parseS3Location,
  parseWalObjectKey,
  walGroupPrefix,
  walKeyStem,
  walsPrefix,
} from '../../../src/storage/s3/wal-object-key.ts';
import { walName } from '../../../src/wal/wal-name.ts';

const root = { prefix: 'backups/pg', server: 'main' };
const segment = walName('00000001000000AB000000CD');

describe('a location in S3', () => {
  test.each([
    ['s3://bucket', 'bucket', ''],
    ['s3://bucket/', 'bucket', ''],
    ['s3://bucket/a/b', 'bucket', 'a/b'],
    ['s3://bucket/a/b/', 'bucket', 'a/b'],
    ['s3://bucket//a', 'bucket', 'a'],
    ['s3://my.bucket-1/Äpfel und Birnen/+&%41=', 'my.bucket-1', 'Äpfel und Birnen/+&%41='],
    // Barman keeps the second slash, so its objects are there and nowhere else.
    ['s3://bucket/a//', 'bucket', 'a/'],
    ['s3://bucket/a//b', 'bucket', 'a//b'],
  ])('%s is taken apart', (text, bucket, prefix) => {
    expect(parseS3Location(text)).toEqual({ bucket, prefix });
  });

  test.each([
    ['s3:/bucket', 'expected s3://BUCKET'],
    ['/var/lib/barman', 'expected s3://BUCKET'],
    ['s3://', 'expected a bucket name'],
    ['s3:///prefix', 'expected a bucket name'],
    ['s3://key:secret@bucket/x', 'expected a bucket name'],
    ['s3://b/x', 'expected a bucket name'],
    ['s3://bucket/a?versionId=1', 'expected no ? and no #'],
    ['s3://bucket/a#b', 'expected no ? and no #'],
    ['s3://bucket/a/../b', 'expected no . or ..'],
    ['s3://bucket/./b', 'expected no . or ..'],
    ['s3://bucket/a\nb', 'control characters'],
    [`s3://bucket/${'x'.repeat(1000)}`, 'at most 824 bytes, found 1000'],
  ])('%j is refused, with the reason', (text, problem) => {
    expect(() => parseS3Location(text)).toThrow(expect.objectContaining({ code: 'config' }));
    expect(() => parseS3Location(text)).toThrow(problem);
    expect(() => parseS3Location(text)).toThrow('wals_directory = ');
  });
});

describe('a key', () => {
  test.each<[CompressionName | null, string]>([
    [null, ''],
    ['gzip', '.gz'],
    ['pygzip', '.gz'],
    ['bzip2', '.bz2'],
    ['pybzip2', '.bz2'],
    ['xz', '.xz'],
    ['zstd', '.zst'],
    ['lz4', '.lz4'],
    ['snappy', '.snappy'],
  ])('of a segment with compression %s ends in "%s"', (compression, extension) => {
    expect(buildWalObjectKey(root, segment, compression)).toBe(
      `backups/pg/main/wals/00000001000000AB/00000001000000AB000000CD${extension}`,
    );
  });

  test.each<CompressionName>(['pigz', 'custom'])(
    'can not be made for %s, which runs programs between files',
    (name) => {
      expect(() => buildWalObjectKey(root, segment, name)).toThrow(`compression = ${name} can't be used with S3`);
    },
  );

  test.each([
    ['00000001000000AB000000CD.partial', '00000001000000AB/00000001000000AB000000CD.partial.gz'],
    ['00000001000000AB000000CD.00000028.backup', '00000001000000AB/00000001000000AB000000CD.00000028.backup.gz'],
    ['00000002.history', '00000002.history.gz'],
    ['00000001000000ab000000cd', '00000001000000ab/00000001000000ab000000cd.gz'],
  ])('of %s is %s below wals/', (name, key) => {
    expect(buildWalObjectKey(root, walName(name), 'gzip')).toBe(`backups/pg/main/wals/${key}`);
  });

  test('without a prefix begins with the server', () => {
    expect(buildWalObjectKey({ prefix: '', server: 'main' }, segment, null)).toBe(
      `main/wals/00000001000000AB/${segment}`,
    );
    expect(buildWalObjectKey({ prefix: 'a/', server: 'main' }, segment, null)).toBe(
      `a//main/wals/00000001000000AB/${segment}`,
    );
  });

  test('begins with what is listed to find it', () => {
    const key = buildWalObjectKey(root, segment, 'zstd');
    expect(walsPrefix(root)).toBe('backups/pg/main/wals/');
    expect(walGroupPrefix(root, segment)).toBe('backups/pg/main/wals/00000001000000AB/');
    expect(walGroupPrefix(root, walName('00000002.history'))).toBe('backups/pg/main/wals/');
    expect(key.startsWith(walKeyStem(root, segment))).toBe(true);
  });

  test.each<[string, CompressionName | null]>([
    ['00000001000000AB000000CD', null],
    ['00000001000000AB000000CD.partial', 'zstd'],
    ['00000001000000AB000000CD.00000028.backup', 'snappy'],
    ['00000002.history', 'bzip2'],
    ['00000002.history', null],
  ])('of %s with compression %s tells both', (name, compression) => {
    const key = buildWalObjectKey(root, walName(name), compression);
    expect(parseWalObjectKey(root, key)).toEqual({ name, compression });
  });

  test.each([
    ['another server', 'backups/pg/other/wals/00000001000000AB/00000001000000AB000000CD'],
    ['another directory', 'backups/pg/main/wals/00000001000000AA/00000001000000AB000000CD'],
    ['no directory', 'backups/pg/main/wals/00000001000000AB000000CD'],
    ['a history file in a directory', 'backups/pg/main/wals/0000000200000000/00000002.history'],
    ['one level more', 'backups/pg/main/wals/x/00000001000000AB/00000001000000AB000000CD'],
    ['an extension nobody knows', 'backups/pg/main/wals/00000001000000AB/00000001000000AB000000CD.7z'],
    ['two extensions', 'backups/pg/main/wals/00000001000000AB/00000001000000AB000000CD.gz.gz'],
    ['no WAL file', 'backups/pg/main/wals/xlog.db'],
    ['the directory itself', 'backups/pg/main/wals/'],
    ['a backup', 'backups/pg/main/base/20260101T000000/data.tar'],
  ])('with %s is none of ours', (_, key) => {
    expect(parseWalObjectKey(root, key)).toBeNull();
  });
});
