import { writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import zlib, { gzipSync } from 'node:zlib';
import { beforeAll, expect, test } from 'vitest';
import { Unpacker } from '../../src/storage/unpacker.ts';
import { saveAll, waiting, withStorage } from '../storage/with-storage.ts';
import { ensureBuilt } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';

beforeAll(ensureBuilt);

/** Runs `work` while this thread can't decompress gzip. */
async function withoutGunzipHere<T>(work: () => Promise<T>): Promise<T> {
  const { gunzipSync } = zlib;
  const refuse = (): never => {
    throw new Error('decompressed on the thread that serves HTTP');
  };
  Object.assign(zlib, { gunzipSync: refuse });
  syncBuiltinESMExports();
  try {
    return await work();
  } finally {
    Object.assign(zlib, { gunzipSync });
    syncBuiltinESMExports();
  }
}

test('in the daemon, what arrived compressed, and what it is compared with, is never decompressed on the thread that serves HTTP', async () => {
  await using unpacker = new Unpacker({ custom: undefined, segmentSize: async () => null, resident: true });
  const { name, bytes } = makeWal({ segment: 1 });
  const packed = gzipSync(bytes);
  const another = gzipSync(makeWal({ segment: 1, seed: 9 }).bytes);
  for (const compression of [null, 'gzip'] as const) {
    await withStorage({ compression, unpacker }, async (storage) => {
      const deliver = async (content: Buffer): Promise<string[]> => {
        const path = join(storage.incoming, name);
        await writeFile(path, content);
        return (await saveAll(storage.open(), [await waiting(path)])).map(({ outcome }) => outcome);
      };
      await withoutGunzipHere(async () => {
        expect(await deliver(packed)).toEqual(['stored']);
        expect(await deliver(packed)).toEqual(['already-stored']);
        expect(await storage.open().compare(name, packed)).toEqual({ result: 'same' });
        expect(await storage.open().compare(name, bytes)).toEqual({ result: 'same' });
        expect(await storage.open().compare(name, another)).toMatchObject({ result: 'different' });
        const bomb = gzipSync(Buffer.concat([bytes, Buffer.alloc(bytes.length)]));
        await expect(unpacker.unpack(bomb, name)).rejects.toMatchObject({ code: 'damaged' });
      });
    });
  }
});
