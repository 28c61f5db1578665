import { randomBytes } from 'node:crypto';
import { readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { sha256 } from '../../src/storage/sha256.ts';
import { withHttp } from '../daemon/http/with-http.ts';
import { withPostgres } from '../support/postgres.ts';
import { deliveryOf } from './tar-stream.ts';
import { catalogueLines, configured, namesIn, withServer, type TestServer } from './with-server.ts';

const MIB = 1024 * 1024;
const NAME = '000000010000000000000001';
const NEXT = '000000010000000000000002';
const THIRD = '000000010000000000000003';

/** What transparent data encryption makes of a segment. */
const sealed = (size = MIB): Buffer => randomBytes(size);
const OFF = { verify_wal_header: 'off', wal_segment_size: '1MB' };

const check = async (server: TestServer): Promise<string> =>
  (await server.cli(['check', 'main'])).stdout.split('\n').find((line) => line.includes('WAL headers')) ?? '';

describe('verify_wal_header = off', () => {
  test('takes WAL without headers by its name and size; with a checksum at once, and every command works on it', () =>
    withHttp({ server: { ...OFF, compression: 'gzip' } }, async (server) => {
      const [first, second, third] = [sealed(), sealed(), sealed()];
      expect((await server.put(NAME, first, { 'x-content-sha256': sha256(first) })).status).toBe(201);
      expect((await server.get(NAME)).body.equals(first)).toBe(true);
      const input = await deliveryOf([{ name: NEXT, bytes: second }]);
      expect(await server.cli(['put-wal', 'main'], { input })).toMatchObject({ status: 0, stderr: '' });
      const packed = gzipSync(third);
      expect((await server.put(THIRD, packed, { 'x-content-sha256': sha256(packed) })).status).toBe(201);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.incoming)).toEqual([]);
      expect(await namesIn(server.errors)).toEqual([]);

      for (const [name, bytes] of [
        [NAME, first],
        [NEXT, second],
        [THIRD, third],
      ] as const) {
        expect((await server.get(name)).body.equals(bytes)).toBe(true);
        const got = await server.cli(['get-wal', 'main', name]);
        expect(got.status).toBe(0);
        expect(got.bytes.equals(bytes)).toBe(true);
      }
      // The same again is a duplicate, another content a conflict.
      expect((await server.put(NAME, first, { 'x-content-sha256': sha256(first) })).status).toBe(200);
      expect((await server.put(NAME, second)).status).toBe(409);
      const lines = (await catalogueLines(server)).map((line) => line.split('\t').filter((_field, at) => at !== 2));
      expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
      const again = (await catalogueLines(server)).map((line) => line.split('\t').filter((_field, at) => at !== 2));
      expect(again).toEqual(lines);
      expect((await server.cli(['list-wals', 'main'])).stdout).toContain(THIRD);
      expect(await check(server)).toMatch(/WAL headers: OK \(they are not verified, for verify_wal_header is off/);
    }));

  test('what is delivered without a checksum waits until it has been unchanged for incomplete_wal_timeout', () =>
    withServer({ ...OFF, incomplete_wal_timeout: '1 HOUR' }, async (server) => {
      const bytes = sealed();
      const path = join(server.incoming, NAME);
      await writeFile(path, bytes);
      // By the change of its inode, which no cp -p sets back.
      await utimes(path, 1, 1);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.incoming)).toEqual([NAME]);
      expect((await server.cli(['get-wal', 'main', NAME])).bytes.equals(bytes)).toBe(true);
      const patient = await configured(server, { ...OFF, incomplete_wal_timeout: '0 s' });
      expect(await patient.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.incoming)).toEqual([]);
    }));

  test('refuses another size and a number that no segment has, and an incomplete file waits', () =>
    withHttp({ server: OFF }, async (server) => {
      expect((await server.put(NAME, sealed(2 * MIB))).status).toBe(422);
      expect((await server.put(NAME, sealed(MIB - 1))).status).toBe(422);
      expect((await server.put('000000010000000000001000', sealed())).status).toBe(422);
      await writeFile(join(server.incoming, NEXT), sealed(MIB - 8192));
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.incoming)).toEqual([NEXT]);
    }));

  test('takes nothing while the size is not known, and check says so; history files are taken', () =>
    withHttp({ server: { verify_wal_header: 'off', incomplete_wal_timeout: '0 s' } }, async (server) => {
      const answer = await server.put(NAME, sealed());
      expect(answer.status).toBe(503);
      expect(answer.body.toString()).toContain('set wal_segment_size');
      await writeFile(join(server.incoming, NEXT), sealed());
      const pass = await server.cli(['archive-wal', 'main']);
      expect(pass.status).toBe(1);
      expect(pass.stdout + pass.stderr).toContain('verify_wal_header is off');
      expect(await namesIn(server.incoming)).toEqual([NEXT]);
      expect(await check(server)).toMatch(/WAL headers: FAILED .*no segment is taken .*set wal_segment_size/);
      expect((await server.put('00000002.history', Buffer.from('1\t0/3000000\tno reason\n'))).status).toBe(201);
    }));

  test('asks the server for the size, and remembers it when the server is away', () =>
    withPostgres({}, (pg) =>
      withServer({ verify_wal_header: 'off', conninfo: pg.conninfo }, async (server) => {
        const put = async (name: string, bytes: Buffer): Promise<void> => {
          const input = await deliveryOf([{ name, bytes }]);
          expect(await server.cli(['put-wal', 'main'], { input })).toMatchObject({ status: 0, stderr: '' });
          expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
        };
        await put(NAME, sealed());
        expect(await check(server)).toMatch(/WAL headers: OK/);
        const identity: unknown = JSON.parse(await readFile(join(server.home, 'main', 'identity.json'), 'utf8'));
        expect(identity).toEqual({ systemid: String(await pg.systemIdentifier()), version: String(pg.programs.major) });
        await pg.stop();
        const bytes = sealed();
        await put(NEXT, bytes);
        expect((await server.cli(['get-wal', 'main', NEXT])).bytes.equals(bytes)).toBe(true);
      }),
    ));
});
