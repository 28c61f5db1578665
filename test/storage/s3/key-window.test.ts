import { expect, test } from 'vitest';
import { KeyWindow } from '../../../src/storage/s3/key-window.ts';
import type { ObjectStore } from '../../../src/storage/s3/object-store.ts';
import { buildWalObjectKey, walsPrefix } from '../../../src/storage/s3/wal-object-key.ts';
import { segmentName, walName } from '../../../src/wal/wal-name.ts';
import type { FaultProxy, SeenRequest } from '../../support/fault-proxy.ts';
import { describeS3, type S3Server } from '../../support/s3.ts';
import { throughProxy } from './with-store.ts';

/** A thousand requests at once have to wait for each other. */
const MANY = { readTimeoutMs: 60_000 };

const ROOT = { prefix: 'archive/wal', server: 'main' };
const MIB = 1024 * 1024;

const isList = ({ method, url }: SeenRequest): boolean => method === 'GET' && url.includes('list-type=2');

const nameOf = (segment: number, timeline = 1) => segmentName(timeline, BigInt(segment), 16 * MIB);
const keyOf = (segment: number, compression: 'gzip' | 'zstd' | null = 'gzip', root = ROOT): string =>
  buildWalObjectKey(root, nameOf(segment), compression);

/** A thousand objects take a while on a busy machine. */
function withProxy(server: S3Server, body: (store: ObjectStore, proxy: FaultProxy) => Promise<void>): Promise<void> {
  return throughProxy(server, body, { readTimeoutMs: 60_000 });
}

async function putAll(store: ObjectStore, keys: readonly string[]): Promise<void> {
  for (let at = 0; at < keys.length; at += 50) {
    await Promise.all(keys.slice(at, at + 50).map((key) => store.putIfAbsent(key, Buffer.from('x'))));
  }
}

describeS3('the window of keys', (server) => {
  test('finds every object of a name with one look, whatever the extension, and nothing for other names', () =>
    withProxy(server, async (store, proxy) => {
      const base = `${walsPrefix(ROOT)}0000000100000000/`;
      const segment = nameOf(5);
      const keys = [
        keyOf(4),
        `${base}${segment}`,
        `${base}${segment}.00000028.backup.gz`,
        `${base}${segment}.gz`,
        `${base}${segment}.partial`,
        `${base}${segment}.partial.zst`,
        `${base}${segment}.txt`,
        `${base}${segment}.zst`,
        keyOf(7),
        `${walsPrefix(ROOT)}00000002.history`,
        `${walsPrefix(ROOT)}00000002.history.lz4`,
      ];
      await putAll(store, keys);
      const window = new KeyWindow(store, ROOT);
      const before = proxy.seen.length;
      expect(await window.keysOf(segment)).toEqual([
        `${base}${segment}`,
        `${base}${segment}.gz`,
        `${base}${segment}.zst`,
      ]);
      expect(await window.keysOf(walName(`${segment}.00000028.backup`))).toEqual([
        `${base}${segment}.00000028.backup.gz`,
      ]);
      expect(await window.keysOf(walName(`${segment}.partial`))).toEqual([
        `${base}${segment}.partial`,
        `${base}${segment}.partial.zst`,
      ]);
      expect(await window.keysOf(nameOf(6))).toEqual([]);
      expect(await window.keysOf(nameOf(7))).toEqual([keyOf(7)]);
      // In another directory, and behind all that there is.
      expect(await window.keysOf(nameOf(300))).toEqual([]);
      expect(await window.keysOf(nameOf(300, 7))).toEqual([]);
      expect(await window.keysOf(walName('00000002.history'))).toEqual([
        `${walsPrefix(ROOT)}00000002.history`,
        `${walsPrefix(ROOT)}00000002.history.lz4`,
      ]);
      expect(proxy.seen.slice(before).filter(isList)).toHaveLength(1);
      // Before the first that it was asked for.
      expect(await window.keysOf(nameOf(4))).toEqual([keyOf(4)]);
      expect(await window.keysOf(segment)).toHaveLength(3);
      expect(proxy.seen.slice(before).filter(isList)).toHaveLength(2);
    }));

  test('who asks at the same time shares the look', () =>
    withProxy(server, async (store, proxy) => {
      await putAll(store, [keyOf(1), keyOf(2)]);
      const window = new KeyWindow(store, ROOT);
      const before = proxy.seen.length;
      const names = [1, 2, 3, 4].map((segment) => nameOf(segment));
      expect(await Promise.all(names.map((name) => window.keysOf(name)))).toEqual([[keyOf(1)], [keyOf(2)], [], []]);
      expect(proxy.seen.slice(before).filter(isList)).toHaveLength(1);
    }));

  test('works in the root of a bucket, and does not see other servers', () =>
    withProxy(server, async (store) => {
      const root = { prefix: '', server: 'main' };
      const others = ['', 'x'].map((suffix) => ({ prefix: 'main', server: `main${suffix}` }));
      await putAll(store, [keyOf(1, 'gzip', root), ...others.map((other) => keyOf(1, 'zstd', other))]);
      expect(await new KeyWindow(store, root).keysOf(nameOf(1))).toEqual([
        'main/wals/0000000100000000/000000010000000000000001.gz',
      ]);
    }));

  test('is looked at again after half a minute: a batch may take hours, and others may write there', () =>
    withProxy(server, async (store, proxy) => {
      let now = 0;
      const window = new KeyWindow(store, ROOT, undefined, () => now);
      const before = proxy.seen.length;
      const looks: number[] = [];
      for (const time of [0, 30_000, 30_001, 60_001]) {
        now = time;
        await window.keysOf(nameOf(1));
        looks.push(proxy.seen.slice(before).filter(isList).length);
      }
      expect(looks).toEqual([1, 1, 2, 2]);
    }));

  test('shows what the bucket held when it looked, and what was noted since', () =>
    withProxy(server, async (store) => {
      const window = new KeyWindow(store, ROOT);
      expect(await window.keysOf(nameOf(1))).toEqual([]);
      await putAll(store, [keyOf(1), keyOf(2)]);
      window.note(nameOf(1), keyOf(1));
      window.note(nameOf(1), keyOf(1));
      expect(await window.keysOf(nameOf(1))).toEqual([keyOf(1)]);
      expect(await window.keysOf(nameOf(2))).toEqual([]);
      expect(await new KeyWindow(store, ROOT).keysOf(nameOf(2))).toEqual([keyOf(2)]);
    }));

  test('a look that fails is no answer, and the next one looks again', () =>
    withProxy(server, async (store, proxy) => {
      await putAll(store, [keyOf(1)]);
      const window = new KeyWindow(store, ROOT);
      proxy.fail(isList, { kind: 'reset' }, 3);
      const [first, second] = await Promise.allSettled([window.keysOf(nameOf(1)), window.keysOf(nameOf(1))]);
      expect(first).toMatchObject({ status: 'rejected', reason: { failure: 'unreachable' } });
      expect(second).toEqual({ status: 'fulfilled', value: [keyOf(1)] });
    }));
});

describeS3(
  'a page of 1000 keys',
  (server) => {
    test.each<[string, number, string[]]>([
      ['the last key is that of a plain segment, and more of its objects follow', 999, ['', '.gz', '.zst']],
      ['the last key is one extension, and another follows', 998, ['', '.gz', '.zst']],
      ['the last key is a backup label of the segment', 999, ['.00000028.backup', '.gz']],
      ['the last key is the last of the segment', 998, ['.gz', '.zst']],
    ])('is looked past when %s', (_, others, extensions) =>
      throughProxy(
        server,
        async (store, proxy) => {
          const base = `${walsPrefix(ROOT)}0000000100000000/`;
          const wanted = nameOf(200);
          // Junk lies between the first name asked for and the wanted one.
          const junk = Array.from(
            { length: others - 1 },
            (_each, index) => `${keyOf(1)}.${String(index).padStart(4, '0')}`,
          );
          const keys = extensions.map((extension) => `${base}${wanted}${extension}`);
          await putAll(store, [keyOf(1), ...junk, ...keys]);
          const window = new KeyWindow(store, ROOT);
          const before = proxy.seen.length;
          expect(await window.keysOf(nameOf(1))).toEqual([keyOf(1)]);
          expect(await window.keysOf(wanted)).toEqual(keys.filter((key) => !key.endsWith('.backup')));
          expect(await window.keysOf(nameOf(201))).toEqual([]);
          const looks = proxy.seen.slice(before).filter(isList);
          expect(looks.every(({ url }) => url.includes('max-keys=1000'))).toBe(true);
          expect(looks).toHaveLength(2);
        },
        MANY,
      ),
    );

    test('is enough for names within it, and a name behind it costs one look more', () =>
      throughProxy(
        server,
        async (store, proxy) => {
          const keys = Array.from({ length: 1005 }, (_, index) => keyOf(index + 1, index % 2 === 0 ? 'gzip' : null));
          await putAll(store, keys);
          const window = new KeyWindow(store, ROOT);
          const before = proxy.seen.length;
          for (const [index, key] of keys.entries()) expect(await window.keysOf(nameOf(index + 1))).toEqual([key]);
          expect(await window.keysOf(nameOf(2000))).toEqual([]);
          expect(proxy.seen.slice(before).filter(isList)).toHaveLength(2);
        },
        MANY,
      ));
  },
  ['rgw'],
);
