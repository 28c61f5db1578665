import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, link, readdir, readFile, rename, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { plainBytes } from '../../src/storage/stored-content.ts';
import { walDirectory } from '../../src/wal/wal-name.ts';
import { catalogueLines, namesIn, withServer, type ServerOptions, type TestServer } from '../commands/with-server.ts';
import { CLI } from '../support/cli.ts';
import { makeWal, writeWal, type MadeWal } from '../support/make-wal.ts';
import { reachableCli } from '../support/reachable-cli.ts';
import { run } from '../support/run.ts';

const isRoot = process.geteuid?.() === 0;
const NOBODY = isRoot ? { uid: 65_534, gid: 65_534 } : {};
const HOSTILE = fileURLToPath(new URL('hostile.py', import.meta.url));
const ROUNDS = 3;
const SEGMENTS = 4;

const CASES: readonly [string, ServerOptions][] = [
  ['none', {}],
  ['zstd', { compression: 'zstd' }],
];

/** Runs `body` while another user, who may write into incoming, is at work there. */
async function whileHostile(
  server: TestServer,
  how: 'swap' | 'write',
  body: (tell: (what: 'hold' | 'spoil') => Promise<void>) => Promise<void>,
): Promise<void> {
  await chmod(join(server.home, 'main'), 0o755);
  await chmod(server.incoming, 0o777);
  const hostile: ChildProcess = spawn('python3', [HOSTILE, how, server.incoming], {
    stdio: ['pipe', 'pipe', 'inherit'],
    ...NOBODY,
  });
  const ended = once(hostile, 'exit');
  const { stdin, stdout } = hostile;
  try {
    if (stdin === null || stdout === null) throw new Error('no pipes');
    if (how === 'swap') await once(stdout, 'data');
    await body(async (what) => {
      const done = once(stdout, 'data');
      stdin.write(`${what}\n`);
      await done;
    });
  } finally {
    hostile.kill('SIGKILL');
    await ended;
  }
}

const finalOf = (server: TestServer, { name }: MadeWal): string => join(server.wals, walDirectory(name), name);

async function archivedOf(server: TestServer, wal: MadeWal): Promise<Buffer | null> {
  try {
    return await plainBytes({ bytes: await readFile(finalOf(server, wal)) }, wal.name, {});
  } catch {
    return null;
  }
}

describe('while another user puts other files in the place of those that were delivered', () => {
  test.each(CASES)('only what was delivered is archived, and all of it in the end, compression %s', (_which, options) =>
    withServer(options, async (server) => {
      const wals: MadeWal[] = [];
      await whileHostile(server, 'swap', async () => {
        for (let round = 0; round < ROUNDS; round += 1) {
          for (let at = 0; at < SEGMENTS; at += 1) {
            wals.push(await writeWal(server.incoming, { segment: 1 + wals.length }));
          }
          await server.cli(['archive-wal', 'main']);
          for (const wal of wals) {
            const archived = await archivedOf(server, wal);
            expect(archived === null || archived.equals(wal.bytes)).toBe(true);
          }
        }
      });
      // What it had in its hands when it was stopped.
      for (const entry of await readdir(server.incoming)) {
        if (entry.startsWith('.aside-')) {
          await rename(join(server.incoming, entry), join(server.incoming, entry.slice('.aside-'.length)));
        } else if (entry === '.garbage') await rm(join(server.incoming, entry));
      }
      for (let pass = 0; pass < 2; pass += 1) await server.cli(['archive-wal', 'main']);
      for (const wal of wals) {
        expect({ name: wal.name, same: (await archivedOf(server, wal))?.equals(wal.bytes) }).toEqual({
          name: wal.name,
          same: true,
        });
        expect(await stat(finalOf(server, wal))).toMatchObject({ nlink: 1, uid: process.geteuid?.() });
      }
      expect((await catalogueLines(server)).map((line) => line.split('\t')[0])).toEqual(wals.map(({ name }) => name));
      expect(await namesIn(join(server.home, 'main', '.claimed', 'incoming'))).toEqual([]);
    }),
  );
});

// A process of the same user may write to whatever that user owns.
describe.skipIf(!isRoot)('while another user keeps writing to files of its own that it delivered', () => {
  test.each(CASES)('nothing that is archived changes, compression %s', (_which, options) =>
    withServer(options, async (server) => {
      const wals: MadeWal[] = [];
      await whileHostile(server, 'write', async (tell) => {
        const before = new Map<string, Buffer>();
        for (let round = 0; round < ROUNDS; round += 1) {
          for (let at = 0; at < SEGMENTS; at += 1) {
            wals.push(await writeWal(server.incoming, { segment: 1 + wals.length, mode: 0o644 }));
          }
          // From here on these are copies of its own, open for writing.
          await tell('hold');
          await server.cli(['archive-wal', 'main']);
          await tell('spoil');
          for (const wal of wals) {
            const bytes = await readFile(finalOf(server, wal));
            expect(before.get(wal.name)?.equals(bytes) ?? true).toBe(true);
            before.set(wal.name, bytes);
            expect((await archivedOf(server, wal))?.equals(wal.bytes)).toBe(true);
            const { nlink, uid, mode } = await stat(finalOf(server, wal));
            expect({ nlink, uid, mode: mode & 0o777 }).toEqual({ nlink: 1, uid: 0, mode: 0o600 });
          }
        }
      });
    }),
  );
});

test('what another user linked or made is never the archive’s own inode', () =>
  withServer({}, async (server) => {
    const elsewhere = join(server.home, 'pg_wal');
    const { name, path, bytes } = await writeWal(server.incoming, { segment: 1 });
    await link(path, elsewhere);
    await symlink(elsewhere, join(server.incoming, 'a-link'));
    await server.cli(['archive-wal', 'main']);
    const final = join(server.wals, walDirectory(name), name);
    expect((await readFile(final)).equals(bytes)).toBe(true);
    expect((await stat(final)).ino).not.toBe((await stat(elsewhere)).ino);
    expect((await stat(elsewhere)).nlink).toBe(1);
  }));

describe.skipIf(!isRoot)('where the kernel refuses to link files of another owner', () => {
  test('such a file is moved to errors as it is, by rename, and nothing there is replaced', () =>
    withServer({}, async (server) => {
      const { cli, node } = await reachableCli(dirname(dirname(CLI)), NOBODY, server.home);
      await run('chown', ['-R', '65534:65534', server.home], {});
      const path = join(server.incoming, 'secret');
      await writeFile(path, 'of root', { mode: 0o600 });
      const { ino } = await stat(path);
      const result = await run(node, [cli, '-c', server.config, 'archive-wal', 'main'], { cwd: '/', ...NOBODY });
      expect(result.stderr).toContain('moved to errors');
      const [entry = ''] = await namesIn(server.errors);
      expect(entry).toMatch(/^secret\..*\.unknown$/);
      expect(await stat(join(server.errors, entry))).toMatchObject({ ino, uid: 0, nlink: 1 });
      expect(await namesIn(server.incoming)).toEqual([]);
    }));
});

test.each([
  ['without the name of a WAL file', 'huge'],
  ['with the name of a WAL file', makeWal({ segment: 9 }).name],
])('a sparse file of 15 TiB %s stays where it is', (_which, name) =>
  withServer({}, async (server) => {
    const next = await writeWal(server.incoming, { segment: 1 });
    await writeFile(join(server.incoming, name), '');
    await truncate(join(server.incoming, name), 15 * 2 ** 40);
    const { status, stderr } = await server.cli(['archive-wal', 'main']);
    expect(status).toBe(1);
    expect(stderr).toContain('it has 16492674416640 bytes, and no WAL file has more than');
    expect(await namesIn(server.incoming)).toEqual([name]);
    expect(await namesIn(server.errors)).toEqual([]);
    expect((await stat(finalOf(server, next))).nlink).toBe(1);
  }),
);
