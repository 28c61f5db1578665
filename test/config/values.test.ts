import { availableParallelism } from 'node:os';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as values from '../../src/config/values.ts';

const HOUR = 3_600_000;

describe.each([
  [
    'boolean',
    values.boolean,
    [
      ['ON', true],
      ['t', true],
      ['Yes', true],
      ['1', true],
      ['off', false],
      ['F', false],
      ['0', false],
    ],
    ['2', 'enabled', 'true false'],
  ],
  [
    'interval',
    values.interval,
    [
      ['1 DAY', 24 * HOUR],
      ['4 WEEKS', 28 * 24 * HOUR],
      ['2 months', 62 * 24 * HOUR],
      ['3 HOURS', 3 * HOUR],
      ['90 s', 90_000],
      ['5 min', 300_000],
      ['250ms', 250],
    ],
    ['3600', '1.5 DAYS', '-1 DAY', 'DAY', '1 YEAR', '1 DAY 2 HOURS', `9${'9'.repeat(20)} DAYS`],
  ],
  [
    'seconds',
    values.seconds,
    [
      ['30', 30_000],
      ['0', 0],
      ['5 min', 300_000],
      // What a timer takes: with one more it would go off at once.
      ['30 DAYS', 2 ** 31 - 1],
    ],
    ['-1', '1.5', 'soon'],
  ],
  [
    'size',
    values.size,
    [
      ['0', 0],
      ['10', 10],
      ['1k', 1000],
      ['1 Ki', 1024],
      ['2M', 2e6],
      ['2Mi', 2 * 2 ** 20],
      ['1GiB', 2 ** 30],
      ['1 Ti', 2 ** 40],
    ],
    ['1K', '1m', 'k', '-1', '1.5G', '1 GiBB'],
  ],
  [
    'bandwidth',
    values.bandwidth,
    [
      ['0', 0],
      ['4000', 4000],
      ['5m', 5 * 1024],
      ['1G', 2 ** 20],
      ['7 k', 7],
    ],
    ['-1', '5 MB/s', '5120  ; 5 MB/s'],
  ],
  [
    'integer',
    values.integer(0, 10),
    [
      ['0', 0],
      ['+7', 7],
      ['10', 10],
    ],
    ['11', '-1', '1.0', '0x1', 'ten', '1_0'],
  ],
  [
    'workers',
    values.workers,
    [
      ['0', 0],
      ['3', 3],
      ['auto', Math.min(4, availableParallelism())],
    ],
    ['65', '-1', 'many'],
  ],
  [
    'parallel',
    values.parallel,
    [
      ['0', 1],
      ['8', 8],
    ],
    ['65', '-1'],
  ],
  [
    'oneOf',
    values.oneOf('gzip', 'AES256'),
    [
      ['GZIP', 'gzip'],
      ['aes256', 'AES256'],
    ],
    ['gz', 'gzip,AES256'],
  ],
  [
    'compressionLevel',
    values.compressionLevel,
    [
      ['Low', 'low'],
      ['high', 'high'],
      ['-7', -7],
      ['22', 22],
    ],
    ['23', 'best', '1.5'],
  ],
  [
    'logLevel',
    values.logLevel,
    [
      ['INFO', 'info'],
      ['WARNING', 'warn'],
      ['Critical', 'fatal'],
      ['debug', 'debug'],
    ],
    ['LOUD', '10'],
  ],
  [
    'path',
    values.path,
    [
      ['/a/b', '/a/b'],
      ['/a//b/', '/a/b'],
      ['/', '/'],
    ],
    ['a/b', './a', '~/a', 's3://bucket/a', '/a\n/b'],
  ],
  [
    'pathList',
    values.pathList,
    [
      ['/a:/b', ['/a', '/b']],
      ['/a:', ['/a']],
    ],
    ['a:/b', ':'],
  ],
  [
    'location',
    values.location,
    [
      ['/wals/', '/wals'],
      ['s3://bucket', 's3://bucket'],
      ['s3://bucket/a/b/', 's3://bucket/a/b'],
      ['s3://My_Bucket.old/pré fix', 's3://My_Bucket.old/pré fix'],
    ],
    [
      'wals',
      's3://',
      's3:/bucket',
      'S3://bucket',
      's3://B_/x',
      's3://bucket/../x',
      's3://bucket/./x',
      's3://bucket/a//b',
      's3://bucket/a?b',
      's3://bucket/a#b',
      's3://bucket/a\u0007',
      `s3://bucket/${'x'.repeat(900)}`,
      'gs://bucket/x',
    ],
  ],
  [
    'timeout',
    values.timeout,
    [
      ['60', 60_000],
      ['500 ms', 500],
    ],
    ['0', '0 s', 'ever', '-1'],
  ],
  [
    'fileMode',
    values.fileMode,
    [
      ['0600', 0o600],
      ['640', 0o640],
      ['0o600', 0o600],
    ],
    ['600 ', '0755', '0400', '888', '06000', 'rw-------'],
  ],
  [
    'slotName',
    values.slotName,
    [
      ['barman', 'barman'],
      ['Slot_1', 'slot_1'],
    ],
    ['my-slot', '', 'a'.repeat(64)],
  ],
  [
    'bytes',
    values.bytes,
    [['0xFD37', Uint8Array.of(0xfd, 0x37)]],
    ['fd37', '0x', '0xf', '0xzz', `0x${'00'.repeat(33)}`],
  ],
  [
    'url',
    values.url,
    [['http://127.0.0.1:9000', 'http://127.0.0.1:9000']],
    ['localhost:9000', 'ftp://x', 'https://user:pw@x'],
  ],
  [
    'listenAddress',
    values.listenAddress,
    [
      ['off', 'off'],
      ['unix:/run/w.sock', 'unix:/run/w.sock'],
      ['127.0.0.1:80', '127.0.0.1:80'],
      ['[::1]:80', '[::1]:80'],
    ],
    ['unix:w.sock', `unix:/${'x'.repeat(120)}`, '80', 'host:99999'],
  ],
  [
    'tags',
    values.tags,
    [
      ['a=1, b = 2', { a: '1', b: '2' }],
      ['a=', { a: '' }],
    ],
    ['a', 'a=1,a=2', '=1'],
  ],
] as const)('%s', (_name, type, good, bad) => {
  it('reads what is allowed', () => {
    for (const [text, value] of good) expect(type.parse(text), text).toEqual(value);
  });

  it('refuses everything else', () => {
    for (const text of bad) expect(type.parse(text), text).toBeUndefined();
  });

  it('never throws', () => {
    fc.assert(fc.property(fc.string(), (text) => void type.parse(text)));
  });
});

describe('a conninfo over several lines', () => {
  it('becomes one line', () => {
    expect(values.conninfo.parse('host=pg\nuser=barman')).toBe('host=pg user=barman');
  });
});
