import { chmod, lstat, mkdir, readdir, readFile, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { walName, type WalName } from '../../src/wal/wal-name.ts';
import { realSegments } from '../support/fixture.ts';
import { withGpgKey } from '../storage/with-gpg-key.ts';
import { partialWal } from '../wal/partial-wal.ts';
import { catalogueLines, json, namesIn, withServer, type ServerOptions, type TestServer } from './with-server.ts';

const segments = await realSegments();
const names = [...segments.keys()].map((name) => walName(name));
const [, name = walName('000000010000000000000001')] = names;
const good = segments.get(name) ?? Buffer.alloc(0);
const TIME = 1_700_000_000;

/** An archive of real segments; `name` is the one in the middle that is damaged. */
async function withArchive(options: ServerOptions, body: (archive: Damaged) => Promise<void>): Promise<void> {
  await withServer(options, async (server) => {
    for (const each of names.slice(0, 3)) await writeFile(join(server.incoming, each), segments.get(each) ?? '');
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    await body(new Damaged(server));
  });
}

class Damaged {
  readonly server: TestServer;
  readonly stored: string;
  readonly kept: string;

  constructor(server: TestServer) {
    this.server = server;
    this.stored = join(server.wals, name.slice(0, 16), name);
    this.kept = `${server.errors}.kept`;
  }

  /** The good segment comes again, and its archive says that it is another content. Resolves to its name in errors. */
  async redeliver(bytes: Buffer = good): Promise<string> {
    const path = join(this.server.incoming, name);
    await writeFile(path, bytes);
    await utimes(path, TIME, TIME);
    expect(await this.server.cli(['archive-wal', 'main'])).toMatchObject({ status: 1 });
    const [entry = ''] = await namesIn(this.server.errors);
    expect(entry).toMatch(new RegExp(`^${name}\\.\\d+T\\d+Z\\.duplicate$`));
    return entry;
  }

  replace(entry: string, ...more: string[]): ReturnType<TestServer['cli']> {
    return this.server.cli(['errors', 'resolve', '--replace', ...more, 'main', entry]);
  }

  async expectReplaced(damaged: Buffer): Promise<void> {
    const { server } = this;
    expect((await server.cli(['get-wal', 'main', name])).bytes.equals(good)).toBe(true);
    const [kept = '', ...others] = await namesIn(this.kept);
    expect(others).toEqual([]);
    expect(kept).toMatch(new RegExp(`^${name}\\.\\d{8}T\\d{6}Z\\.replaced$`));
    expect((await readFile(join(this.kept, kept))).equals(damaged)).toBe(true);
    const line = (await catalogueLines(server)).find((each) => each.startsWith(`${name}\t`))?.split('\t') ?? [];
    const there = await stat(this.stored);
    expect(line.slice(0, 3)).toEqual([name, String(there.size), `${TIME}.0`]);
    expect(there.mode & 0o777).toBe(0o600);
    expect(there.mtimeMs).toBe(TIME * 1000);
    expect(await catalogueLines(server)).toHaveLength(3);
    expect(await namesIn(server.errors)).toEqual([]);
    expect(await readdir(join(server.wals, name.slice(0, 16)))).toHaveLength(3);
    // What is archived is what comes again.
    await writeFile(join(server.incoming, name), good);
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    expect(await namesIn(server.errors)).toEqual([]);
  }
}

const CUT = 'cut short';
const DAMAGES: readonly (readonly [what: string, damage: (bytes: Buffer) => Buffer])[] = [
  ['empty', () => Buffer.alloc(0)],
  [CUT, (bytes) => bytes.subarray(0, Math.floor(bytes.length * 0.6))],
  ['full of zeros', (bytes) => Buffer.alloc(bytes.length)],
  [
    'zeros in its middle',
    (bytes) => Buffer.concat([bytes.subarray(0, 40_000), Buffer.alloc(30_000), bytes.subarray(70_000)]),
  ],
  [
    'of a flipped byte',
    (bytes) => {
      const copy = Buffer.from(bytes);
      const at = Math.floor(copy.length / 2);
      copy.writeUInt8((copy[at] ?? 0) ^ 0x20, at);
      return copy;
    },
  ],
];

describe.each(['none', 'gzip', 'zstd', 'bzip2', 'xz', 'lz4', 'snappy'])(
  'errors resolve --replace, compression = %s',
  (compression) => {
    test.each(compression === 'none' || compression === 'zstd' ? DAMAGES : DAMAGES.slice(0, 2))(
      'puts the good segment in the place of an archived copy that is %s',
      (_what, damage) =>
        withArchive(compression === 'none' ? {} : { compression }, async (archive) => {
          const { server, stored } = archive;
          const damaged = damage(await readFile(stored));
          await writeFile(stored, damaged);
          const entry = await archive.redeliver();
          const { stdout: explained } = await server.cli(['errors', 'explain', 'main', entry]);
          expect(explained).toMatch(/\tnow: the archived copy is damaged: .*; this one is whole: its records go on/);
          expect(explained).toMatch(/\tadvice: this is the better one: resolve --replace/);
          // Without being told so, nothing is replaced.
          expect(await server.cli(['errors', 'resolve', 'main', entry])).toMatchObject({ status: 1 });
          expect((await readFile(stored)).equals(damaged)).toBe(true);
          const result = await archive.replace(entry);
          expect(result).toMatchObject({ status: 0 });
          expect(result.stdout).toContain(`replaced ${name}; what was there is kept in ${archive.kept}/${name}.`);
          await archive.expectReplaced(damaged);
        }),
    );
  },
);

describe('errors resolve --replace', () => {
  test('of encrypted files, where the key is; what is stored then is encrypted and known as the same', () =>
    withGpgKey(({ keyId, homedir }) =>
      withArchive(
        { compression: 'gzip', encryption: 'gpg', encryption_key_id: keyId, gnupg_home: homedir },
        async (archive) => {
          const damaged = (await readFile(archive.stored)).subarray(0, 20_000);
          await writeFile(archive.stored, damaged);
          const entry = await archive.redeliver();
          expect(await archive.replace(entry)).toMatchObject({ status: 0 });
          const bytes = await readFile(archive.stored);
          expect(bytes.includes(good.subarray(100, 200))).toBe(false);
          await archive.expectReplaced(damaged);
        },
      ),
    ));

  test('not of encrypted files where the key is missing, though their digest is another: it can not be told', () =>
    withGpgKey(({ keyId, homedir }) =>
      withArchive(
        { compression: 'gzip', encryption: 'gpg', encryption_key_id: keyId, gnupg_home: homedir },
        async (archive) => {
          const { server, stored } = archive;
          const damaged = (await readFile(stored)).subarray(0, 20_000);
          await writeFile(stored, damaged);
          const entry = await archive.redeliver();
          const elsewhere = await mkdir(join(server.home, 'no keys'), { recursive: true, mode: 0o700 });
          const text = (await readFile(server.config, 'utf8')).replace(homedir, elsewhere ?? '');
          await writeFile(server.config, text);
          const { status, stdout } = await archive.replace(entry, '--force');
          expect({ status, stdout }).toMatchObject({
            status: 1,
            stdout: expect.stringMatching(/left: the archived copy can not be judged: no secret key/),
          });
          expect((await readFile(stored)).equals(damaged)).toBe(true);
          expect(await namesIn(server.errors)).toEqual([entry]);
          expect((await server.cli(['errors', 'explain', 'main', entry])).stdout).toContain(
            'advice: run this where the archived copy can be read and decrypted',
          );
        },
      ),
    ));

  test('refuses what is damaged itself, and says which of the two is', () =>
    withArchive({ compression: 'zstd' }, async (archive) => {
      const { server, stored } = archive;
      const before = await readFile(stored);
      const spoiled = Buffer.from(good);
      spoiled.fill(0, 100_000, 120_000);
      const entry = `${name}.20261121T090022Z.duplicate`;
      await writeFile(join(server.errors, entry), spoiled);
      const { stdout } = await server.cli(['errors', 'explain', 'main', entry]);
      expect(stdout).toMatch(/the archived copy is whole: .*; this one is damaged: page \d+ \(at byte \d+\)/);
      expect(stdout).toContain('advice: the archived copy is the good one; resolve --keep-aside');
      expect(await archive.replace(entry, '--force')).toMatchObject({ status: 1 });
      expect((await readFile(stored)).equals(before)).toBe(true);
      expect(await server.cli(['errors', 'resolve', '--keep-aside', 'main', entry])).toMatchObject({ status: 0 });
    }));

  test('refuses WAL of another cluster, though the archived copy is empty', () =>
    withArchive({}, async (archive) => {
      const { server, stored } = archive;
      await truncate(stored, 0);
      const foreign = Buffer.from(good);
      foreign.writeBigUInt64LE(42n, 24);
      const entry = `${name}.20261121T090022Z.duplicate`;
      await writeFile(join(server.errors, entry), foreign);
      const { status, stdout } = await archive.replace(entry, '--force');
      expect({ status, stdout }).toMatchObject({
        status: 1,
        stdout: expect.stringContaining('it is WAL of system identifier 42, and this archive belongs to'),
      });
      expect((await stat(stored)).size).toBe(0);
    }));

  test('is known to check at once, though the archive was listed before', () =>
    withArchive({}, async (archive) => {
      const { server, stored } = archive;
      await truncate(stored, 0);
      expect(await server.cli(['list-wals', '--stored', 'main'])).toMatchObject({ status: 0 });
      const before = (await server.cli(['check', 'main'])).stdout;
      expect(before).toContain(
        `archived files: FAILED (1 stored file of another size than the catalogue says: ${name}`,
      );
      expect(before).toContain(`1 segment missing, ${name}`);
      const entry = await archive.redeliver();
      expect(await archive.replace(entry)).toMatchObject({ status: 0 });
      const after = (await server.cli(['check', 'main'])).stdout;
      expect(after).toContain('archived files: OK (3 files listed');
      expect(after).not.toContain('missing,');
    }));

  test('takes a later copy that begins with all the WAL of the archived one and goes on', async () => {
    const wal = await partialWal();
    await withServer({ compression: 'gzip' }, async (server) => {
      const later = walName(wal.name);
      await writeFile(join(server.incoming, later), wal.recycled);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      const entry = `${later}.20261121T090022Z.duplicate`;
      await writeFile(join(server.errors, entry), wal.whole);
      const { stdout } = await server.cli(['errors', 'explain', 'main']);
      expect(stdout).toContain('it begins with all the WAL of the archived copy, and goes on');
      expect(await server.cli(['errors', 'resolve', '--replace', 'main', entry])).toMatchObject({ status: 0 });
      expect((await server.cli(['get-wal', 'main', later])).bytes.equals(wal.whole)).toBe(true);
      // The shorter one that comes again has nothing new.
      await writeFile(join(server.errors, entry), wal.recycled);
      expect(json(await server.cli(['-f', 'json', 'errors', 'explain', 'main', entry]))).toMatchObject([
        { state: 'superfluous' },
      ]);
      expect((await server.cli(['errors', 'resolve', 'main'])).status).toBe(0);
    });
  });

  test('of a file that another user may not read: nothing is told, nothing is done', () =>
    withArchive({}, async (archive) => {
      if (process.geteuid?.() === 0) return;
      const entry = await archive.redeliver(Buffer.from(good).fill(0, 50_000, 60_000));
      await chmod(archive.stored, 0);
      expect(await archive.replace(entry, '--force')).toMatchObject({ status: 1 });
      expect((await lstat(archive.stored)).mode & 0o777).toBe(0);
    }));

  test('is the command that finishes what a crash interrupted: the line is corrected, the file leaves errors', () =>
    withArchive({ compression: 'gzip' }, async (archive) => {
      const { server, stored } = archive;
      const [line = ''] = (await catalogueLines(server)).filter((each) => each.startsWith(name));
      const whole = await readFile(stored);
      const damaged = whole.subarray(0, 1_000);
      await writeFile(stored, damaged);
      await server.cli(['rebuild-xlogdb', 'main']);
      const entry = await archive.redeliver();
      // As after a crash between the rename and the line.
      await writeFile(stored, whole);
      expect(await archive.replace(entry)).toMatchObject({ status: 0 });
      expect(await namesIn(server.errors)).toEqual([]);
      const [healed = ''] = (await catalogueLines(server)).filter((each) => each.startsWith(name));
      expect(healed.split('\t')[1]).toBe(line.split('\t')[1]);
    }));

  test('wants the name of one file, and no other order beside it', () =>
    withServer({}, async (server) => {
      expect(await server.cli(['errors', 'resolve', '--replace', 'main'])).toMatchObject({
        status: 2,
        stderr: 'ERROR: --replace needs the name of one file\n',
      });
      expect(await server.cli(['errors', 'resolve', '--replace', '--keep-aside', 'main', 'x'])).toMatchObject({
        status: 2,
      });
      expect(await server.cli(['errors', 'resolve', '--force', 'main', 'x'])).toMatchObject({
        status: 2,
        stderr: 'ERROR: --force is for --replace only\n',
      });
    }));
});

describe('a history file', () => {
  const history: WalName = walName('00000002.history');
  const text = '1\t0/500000\tno recovery target specified\n';

  test.each(['', '1\t0/5000', '\0'.repeat(40)])('that is archived as %j is replaced by the good one', (damaged) =>
    withServer({}, async (server) => {
      const stored = join(server.wals, history);
      await writeFile(stored, damaged);
      const entry = `${history}.20261121T090022Z.duplicate`;
      await writeFile(join(server.errors, entry), text);
      await server.cli(['rebuild-xlogdb', 'main']);
      expect((await server.cli(['errors', 'explain', 'main'])).stdout).toContain('the archived copy is damaged: ');
      expect(await server.cli(['errors', 'resolve', '--replace', 'main', entry])).toMatchObject({ status: 0 });
      expect(await readFile(stored, 'utf8')).toBe(text);
    }),
  );
});
