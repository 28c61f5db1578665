import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { RememberedEndpoint } from '../../../src/storage/s3/remembered-endpoint.ts';
import { withDefaults, type S3Settings } from '../../../src/storage/s3/s3-settings.ts';
import { withTempDir } from '../../support/temp-dir.ts';

const SETTINGS: S3Settings = { bucket: 'wal', region: 'eu-central-1', endpoint: 'https://s3.example.com' };
const FOUND = { conditionalWrites: false, ifMatch: 'quoted', integrity: 'content-md5' } as const;
const DAY = 24 * 3600 * 1000;

const remembered = (path: string, settings: S3Settings = SETTINGS): RememberedEndpoint =>
  new RememberedEndpoint(path, withDefaults(settings));

function withPath(body: (path: string, directory: string) => Promise<void>): Promise<void> {
  return withTempDir((directory) => body(join(directory, '.s3-endpoint.json'), directory));
}

test('what a probe found out is remembered for a day, in a file that nobody else reads', () =>
  withPath(async (path, directory) => {
    const now = Date.parse('2026-11-21T12:00:00Z');
    expect(await remembered(path).read(now)).toBeNull();
    await remembered(path).write(FOUND, now);
    expect(await remembered(path).read(now)).toEqual(FOUND);
    expect(await remembered(path).read(now + DAY - 1)).toEqual(FOUND);
    expect(await remembered(path).read(now + DAY)).toBeNull();
    // The clock was set back.
    expect(await remembered(path).read(now - 1)).toBeNull();
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await readdir(directory)).toEqual(['.s3-endpoint.json']);
  }));

test.each<[string, S3Settings]>([
  ['endpoint', { ...SETTINGS, endpoint: 'https://other.example.com' }],
  ['bucket', { ...SETTINGS, bucket: 'wal2' }],
  ['region', { ...SETTINGS, region: 'us-east-1' }],
  ['service, AWS itself', { bucket: 'wal', region: 'eu-central-1' }],
])('nothing is remembered of another %s', (_, settings) =>
  withPath(async (path) => {
    await remembered(path).write(FOUND);
    expect(await remembered(path, settings).read()).toBeNull();
    await remembered(path, settings).write({ conditionalWrites: true, ifMatch: 'quoted', integrity: 'payload-hash' });
    expect(await remembered(path).read()).toBeNull();
  }),
);

test('a file that is torn, or holds something else, is as good as none, and is written anew', () =>
  withPath(async (path) => {
    await remembered(path).write(FOUND);
    const whole = await readFile(path, 'utf8');
    const parsed: object = JSON.parse(whole);
    const odd = [
      ...Array.from({ length: whole.trimEnd().length }, (_, length) => whole.slice(0, length)),
      'null',
      '[]',
      '"x"',
      JSON.stringify({ ...parsed, conditionalWrites: 'yes' }),
      // As a version wrote it that did not ask for it.
      JSON.stringify({ ...parsed, ifMatch: undefined }),
      JSON.stringify({ ...parsed, integrity: 'crc32' }),
      JSON.stringify({ ...parsed, probed: 'yesterday' }),
      JSON.stringify({ ...parsed, probed: undefined }),
    ];
    for (const text of odd) {
      await writeFile(path, text);
      expect(await remembered(path).read(), JSON.stringify(text)).toBeNull();
    }
    await remembered(path).write(FOUND);
    expect(await remembered(path).read()).toEqual(FOUND);
  }));

test('a file that can not be read is an error that names it', () =>
  withPath(async (_path, directory) => {
    await expect(remembered(directory).read()).rejects.toMatchObject({
      code: 'storage',
      message: expect.stringContaining(directory),
    });
  }));

test('several that probe at the same time leave one whole file', () =>
  withPath(async (path, directory) => {
    await Promise.all(Array.from({ length: 20 }, () => remembered(path).write(FOUND)));
    expect(await remembered(path).read()).toEqual(FOUND);
    expect(await readdir(directory)).toEqual(['.s3-endpoint.json']);
  }));
