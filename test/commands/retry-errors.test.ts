import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { sha256 } from '../../src/storage/sha256.ts';
import { writeConfig } from '../support/cli.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { catalogueLines, json, namesIn, withServer, type ServerOptions, type TestServer } from './with-server.ts';

const STREAMING: ServerOptions = {
  archiver: 'off',
  streaming_archiver: 'on',
  streaming_conninfo: 'host=/nowhere user=nobody',
  slot_name: 'walwarden',
};

const [first, second] = [makeWal({ segment: 1, major: 19 }), makeWal({ segment: 2, major: 19 })];

/** As an older version left a segment there that it did not understand. */
async function refused(
  server: TestServer,
  { name, bytes }: { readonly name: string; readonly bytes: Buffer } = first,
  seconds = 22,
): Promise<string> {
  const entry = `${name}.20261121T0900${seconds}Z.unknown`;
  await writeFile(join(server.errors, entry), bytes, { mode: 0o600 });
  return entry;
}

async function named(server: TestServer): Promise<string[]> {
  return (await catalogueLines(server)).map((line) => line.split('\t')[0] ?? '');
}

describe('errors explain', () => {
  /** Of a version that is too old for us, as any that isn't known yet would be for an older walwarden. */
  const unknown = Buffer.from(first.bytes);
  unknown.writeUInt16LE(0xd093, 0);

  test('says in its first line that a segment that is not understood is the only copy, and never to move it away', () =>
    withServer({}, async (server) => {
      await writeWal(server.incoming, { segment: 9, major: 19 });
      await writeFile(join(server.incoming, first.name), unknown);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
      const [entry = ''] = await namesIn(server.errors);
      const { stdout } = await server.cli(['errors', 'explain', 'main', entry]);
      expect(stdout.split('\n')[0]).toBe(`"${entry}": the only copy of ${first.name} that walwarden knows of, keep it`);
      expect(stdout).toContain(`walwarden errors retry main ${entry}`);
      expect(stdout).not.toContain('keep-aside');
      expect(json(await server.cli(['-f', 'json', 'errors', 'explain', 'main']))).toMatchObject([
        { state: 'only-copy' },
      ]);
      // What is safe is not to touch it.
      for (const args of [
        ['errors', 'resolve', 'main'],
        ['errors', 'retry', '--all', 'main'],
      ]) {
        const left = await server.cli(args);
        expect(left).toMatchObject({ status: 1 });
        expect(left.stdout).not.toContain('keep-aside');
      }
      expect(await namesIn(server.errors)).toEqual([entry]);
      expect(sha256(await readFile(join(server.errors, entry)))).toBe(sha256(unknown));
    }));

  test.each([
    ['of another size', unknown.subarray(0, 500_000), first.name],
    ['that has not the name of WAL', unknown, 'something-else'],
  ])('says nothing of the kind of a file %s', (_what, bytes, name) =>
    withServer({}, async (server) => {
      await writeWal(server.incoming, { segment: 9, major: 19 });
      await server.cli(['archive-wal', 'main']);
      await refused(server, { name, bytes });
      expect((await server.cli(['errors', 'explain', 'main'])).stdout).not.toContain('only copy');
    }),
  );
});

describe('errors retry', () => {
  test.each<[string, ServerOptions]>([
    ['incoming', {}],
    ['streaming, where nothing is delivered otherwise', STREAMING],
  ])('has everything archived that is understood after an upgrade, by way of %s', (_what, options) =>
    withServer(options, async (server) => {
      // The same one was delivered twice, as PostgreSQL does after a crash.
      for (const seconds of [20, 21]) await refused(server, first, seconds);
      await refused(server, second);
      const retried = await server.cli(['errors', 'retry', '--all', 'main']);
      expect(retried.status).toBe(1);
      expect(retried.stdout).toContain('2 files retried, 1 left');
      expect(retried.stdout).toContain('archive that first');
      expect((await server.cli(['-q', 'archive-wal', 'main'])).status).toBe(0);
      expect(await named(server)).toEqual([first.name, second.name]);
      for (const { name, bytes } of [first, second]) {
        expect(sha256((await server.cli(['get-wal', 'main', name])).bytes)).toBe(sha256(bytes));
      }
      // Again: the second copy is one of what is archived.
      expect(await server.cli(['errors', 'retry', '--all', 'main'])).toMatchObject({ status: 0 });
      expect(await namesIn(server.errors)).toEqual([]);
      expect(await server.cli(['errors', 'retry', '--all', 'main'])).toMatchObject({ status: 0 });
      expect((await server.cli(['-q', 'archive-wal', 'main'])).status).toBe(0);
      expect(await named(server)).toEqual([first.name, second.name]);
      for (const directory of [server.incoming, server.streaming]) expect(await namesIn(directory)).toEqual([]);
    }),
  );

  test('takes what a corrected option makes readable, to the end', () =>
    withServer({}, async (server) => {
      // Every byte one more than it was: that has the name and the size of WAL, and not its first bytes.
      const packed = Buffer.from(first.bytes.map((byte) => (byte + 1) % 256));
      await writeFile(join(server.incoming, first.name), packed);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
      const [entry = ''] = await namesIn(server.errors);
      expect((await server.cli(['errors', 'explain', 'main'])).stdout.split('\n')[0]).toContain('the only copy');
      const config = await writeConfig(server.home, {
        servers: {
          main: {
            compression: 'custom',
            custom_compression_filter: String.raw`LC_ALL=C tr '\000-\377' '\001-\377\000'`,
            custom_decompression_filter: String.raw`LC_ALL=C tr '\001-\377\000' '\000-\377'`,
            custom_compression_magic: '0x23d2',
          },
        },
      });
      const retried = await server.cli(['errors', 'retry', 'main', entry], { config });
      expect(retried.status, retried.stderr).toBe(0);
      expect(await server.cli(['-q', 'archive-wal', 'main'], { config })).toMatchObject({ status: 0 });
      expect(sha256((await server.cli(['get-wal', 'main', first.name], { config })).bytes)).toBe(sha256(first.bytes));
      expect(await namesIn(server.errors)).toEqual([]);
    }));

  test('takes encrypted headers once they are not verified any more, to the end', () =>
    withServer({}, async (server) => {
      const encrypted = Buffer.from(first.bytes.map((byte) => byte ^ 0x5a));
      await writeFile(join(server.incoming, first.name), encrypted);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
      const [entry = ''] = await namesIn(server.errors);
      const { stdout } = await server.cli(['errors', 'explain', 'main']);
      expect(stdout.split('\n')[0]).toContain('the only copy');
      expect(stdout).toContain('verify_wal_header = off');
      const config = await writeConfig(server.home, {
        servers: { main: { verify_wal_header: 'off', wal_segment_size: '1MB', incomplete_wal_timeout: 1 } },
      });
      const retried = await server.cli(['errors', 'retry', 'main', entry], { config });
      expect(retried.status, retried.stdout + retried.stderr).toBe(0);
      await until('the file to be archived, once it has not changed for a second', async () => {
        await server.cli(['-q', 'archive-wal', 'main'], { config });
        return (await named(server)).includes(first.name);
      });
      expect(sha256((await server.cli(['get-wal', 'main', first.name], { config })).bytes)).toBe(sha256(encrypted));
      expect(await namesIn(server.errors)).toEqual([]);
    }));

  test('replaces nothing: another file of that name waits, or is archived', () =>
    withServer({}, async (server) => {
      const other = makeWal({ segment: 1, major: 19, seed: 99 });
      await writeFile(join(server.incoming, first.name), other.bytes);
      const entry = await refused(server);
      expect(await server.cli(['errors', 'retry', 'main', entry])).toMatchObject({ status: 1 });
      expect(sha256(await readFile(join(server.incoming, first.name)))).toBe(sha256(other.bytes));
      await server.cli(['archive-wal', 'main']);
      expect(await server.cli(['errors', 'retry', 'main', entry])).toMatchObject({ status: 1 });
      expect(await namesIn(server.errors)).toEqual([entry]);
      expect(sha256((await server.cli(['get-wal', 'main', first.name])).bytes)).toBe(sha256(other.bytes));
    }));

  test.each([
    ['neither a file nor --all', []],
    ['both', ['--all', 'main', 'a-file']],
  ])('is a mistake with %s', (_what, args) =>
    withServer({}, async (server) => {
      const result = await server.cli(['errors', 'retry', ...(args.length === 0 ? ['main'] : args)]);
      expect(result.stderr).toContain('errors retry needs the name of one file, or --all');
      expect(result.status).not.toBe(0);
    }),
  );
});
