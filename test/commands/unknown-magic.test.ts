import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { decompress } from '../../src/compression/codecs.ts';
import { makeWal, TEST_SYSTEM_IDENTIFIER } from '../support/make-wal.ts';
import { json, namesIn, withServer, type TestServer } from './with-server.ts';

/** A segment of a PostgreSQL that does not exist yet. */
function unknownWal(magic: number, segment: number): { name: string; bytes: Buffer } {
  const { name, bytes } = makeWal({ segment });
  for (let page = 0; page < bytes.length; page += 8192) bytes.writeUInt16LE(magic, page);
  return { name, bytes };
}

async function identityOf(server: TestServer): Promise<unknown> {
  return JSON.parse(await readFile(join(server.home, 'main', 'identity.json'), 'utf8'));
}

describe('WAL of a PostgreSQL that we do not know', () => {
  test('is taken, with one warning for each magic, and its version is not made up', () =>
    withServer({ log_level: 'WARNING' }, async (server) => {
      const warnings: string[] = [];
      const wals = [unknownWal(0xd130, 1), unknownWal(0xd130, 2), unknownWal(0xd130, 3), unknownWal(0xd131, 4)];
      for (const { name, bytes } of wals) {
        await writeFile(join(server.incoming, name), bytes);
        const { status, stderr } = await server.cli(['archive-wal', 'main']);
        expect({ name, status }).toEqual({ name, status: 0 });
        warnings.push(...stderr.split('\n').filter((line) => line.includes('page magic')));
      }
      expect(warnings).toEqual([expect.stringContaining('0xD130'), expect.stringContaining('0xD131')]);
      expect(await identityOf(server)).toEqual({ systemid: String(TEST_SYSTEM_IDENTIFIER), version: null });
      for (const { name, bytes } of wals) {
        expect((await server.cli(['get-wal', 'main', name])).bytes.equals(bytes)).toBe(true);
      }
      expect(json(await server.cli(['-f', 'json', 'list-wals', 'main']))).toMatchObject({
        timelines: [{ segments: 4, gaps: [] }],
      });
      expect((await server.cli(['check', 'main'])).stdout).toMatch(/systemid coherence: OK/);
      // A foreign one is foreign all the same.
      const foreign = unknownWal(0xd130, 5);
      foreign.bytes.writeBigUInt64LE(42n, 24);
      await writeFile(join(server.incoming, foreign.name), foreign.bytes);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
      expect(await namesIn(server.errors)).toEqual([expect.stringContaining(foreign.name)]);
    }));

  test('a real segment of PostgreSQL 19 is taken, and says its version', () =>
    withServer({ compression: 'zstd' }, async (server) => {
      const name = '000000010000000000000008';
      const packed = await readFile(new URL(`../fixtures/postgresql-19rc1-${name}.zst`, import.meta.url));
      const bytes = await decompress(packed, 'zstd', { maxSize: 1024 * 1024 });
      await writeFile(join(server.incoming, name), bytes);
      const { status, stderr } = await server.cli(['archive-wal', 'main']);
      expect(status).toBe(0);
      expect(stderr).not.toContain('page magic');
      expect(await identityOf(server)).toMatchObject({ version: '19' });
      expect((await server.cli(['get-wal', 'main', name])).bytes.equals(bytes)).toBe(true);
    }));
});
