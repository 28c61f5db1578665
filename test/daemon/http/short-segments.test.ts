import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { partialName, walName } from '../../../src/wal/wal-name.ts';
import { catalogueLines, namesIn } from '../../commands/with-server.ts';
import { partialWal, spliced } from '../../wal/partial-wal.ts';
import { withHttp, type TestHttp } from './with-http.ts';

const wal = await partialWal();
const name = walName(wal.name);
const partial = partialName(name);
const received = spliced(wal.whole, 500_000, Buffer.alloc(wal.whole.length));
const other = spliced(wal.padded, 8192 * 4, Buffer.alloc(wal.whole.length, 3));

async function named(server: TestHttp): Promise<string[]> {
  return (await catalogueLines(server)).map((line) => line.split('\t')[0] ?? '');
}

async function pass(server: TestHttp): Promise<void> {
  expect(await server.cli(['-q', 'archive-wal', 'main'])).toMatchObject({ status: 0 });
}

test('PUT of what is only the beginning of the archived segment is 201, and 200 once it is stored', () =>
  withHttp({ server: { compression: 'zstd' } }, async (server) => {
    await server.put(name, wal.whole);
    await pass(server);
    expect((await server.put(name, wal.recycled)).status).toBe(201);
    expect((await server.put(name, wal.recycled)).status).toBe(200);
    await pass(server);
    expect((await server.put(name, wal.recycled)).status).toBe(200);
    // The same WAL, filled up with something else.
    expect((await server.put(name, wal.padded)).status).toBe(201);
    await pass(server);
    expect(await named(server)).toEqual([name, partial]);
    expect((await server.get(name)).body.equals(wal.whole)).toBe(true);
    expect((await server.get(partial)).body.equals(wal.recycled)).toBe(true);
    expect((await server.put(name, other)).status).toBe(409);
    expect(await namesIn(server.errors)).toHaveLength(1);
  }));

test('GET hands it out for the full name, as it came, while nothing longer is there; 404 is never the answer', () =>
  withHttp({}, async (server) => {
    await writeFile(join(server.streaming, partial), received);
    expect((await server.put(name, wal.recycled)).status).toBe(201);
    expect((await server.get(name)).body.equals(wal.recycled)).toBe(true);
    await pass(server);
    expect(await named(server)).toEqual([partial]);
    expect((await server.get(name)).body.equals(received)).toBe(true);
    await rm(join(server.streaming, partial));
    for (const path of [name, `${name}?partial=true`, partial]) {
      const { status, body } = await server.get(path);
      expect({ path, status, isIt: body.equals(wal.recycled) }).toEqual({ path, status: 200, isIt: true });
    }
    await writeFile(join(server.streaming, name), wal.whole);
    expect((await server.get(name)).body.equals(wal.whole)).toBe(true);
  }));
