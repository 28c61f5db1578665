import { execFileSync } from 'node:child_process';
import { chmod, mkdir, readFile, rm, symlink, unlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { acquireLock } from '../../src/durable/lock-file.ts';
import { toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { runCli, writeConfig } from '../support/cli.ts';
import { makeWal, TEST_SYSTEM_IDENTIFIER, writeWal } from '../support/make-wal.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { json, withServer, type TestServer } from './with-server.ts';

// Without a PostgreSQL; with one in check-postgres.test.ts.

const wal = makeWal({ segment: 1 });

/** The lines of `check`, without the header and the tab. */
async function checks(server: TestServer, env?: NodeJS.ProcessEnv): Promise<string[]> {
  const { stdout, stderr } = await server.cli(['check', 'main'], env === undefined ? {} : { env });
  expect(stderr).toBe('');
  return stdout
    .split('\n')
    .slice(1, -1)
    .map((text) => text.slice(1));
}

async function line(server: TestServer, name: string, env?: NodeJS.ProcessEnv): Promise<string> {
  return (await checks(server, env)).find((text) => text.startsWith(`${name}: `)) ?? `no ${name}`;
}

async function archiveOne(server: TestServer, mtime?: number): Promise<void> {
  await writeWal(server.incoming, { segment: 1, ...(mtime === undefined ? {} : { mtime }) });
  expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
}

test('a server that has archived something passes, each check on a line under the server’s', () =>
  withServer({}, async (server) => {
    await archiveOne(server);
    const { status, stdout } = await server.cli(['check', 'main']);
    expect(stdout).toMatch(/^Server main:\n(\t[^\t]+: OK(?: \(.+\))?\n)+$/);
    expect(status).toBe(0);
    expect(await checks(server)).toEqual([
      'directories: OK',
      'wal maximum age: OK (last_wal_maximum_age is not set)',
      'archived files: OK (never listed: walwarden cron and the daemon do that once a day, walwarden list-wals --stored main ' +
        'at once; the newest, the oldest and what lies between, 1 file, looked at now)',
      expect.stringMatching(/^wal size: OK \(1\.00 MiB in 1 file\)$/),
      'compression settings: OK',
      'systemid coherence: OK (the system identifier of the server is not known)',
      'archiver errors: OK',
    ]);
  }));

test('JSON is made from the same list', () =>
  withServer({}, async (server) => {
    const result = await server.cli(['-f', 'json', 'check', 'main']);
    expect(result.status).toBe(1);
    expect(json(result)).toEqual([
      {
        server: 'main',
        active: true,
        disabled: false,
        passive: false,
        ok: false,
        checks: expect.arrayContaining([
          { check: 'WAL archive', ok: false, hint: expect.stringMatching(/^nothing ever arrived/) },
          { check: 'directories', ok: true, hint: null },
          { check: 'wal size', ok: true, hint: '0 B in 0 files', bytes: 0 },
        ]),
      },
    ]);
  }));

test('an archive that nothing ever came into fails with what is known of the cause', () =>
  withServer({}, async (server) => {
    expect(await line(server, 'WAL archive')).toBe(
      `WAL archive: FAILED (nothing ever arrived in ${server.incoming}: conninfo is not set, so PostgreSQL can't be asked why)`,
    );
  }));

test('files that nobody archived are the cause, with since when they wait', () =>
  withServer({}, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    expect(await line(server, 'WAL archive')).toMatch(
      /FAILED \(1 file in .*\/incoming waits, since .* UTC .*, for the next archive-wal\)$/,
    );
  }));

test('files that went to errors are part of the cause', () =>
  withServer({}, async (server) => {
    await writeFile(join(server.incoming, 'no-wal'), 'x');
    await server.cli(['archive-wal', 'main']);
    expect(await line(server, 'WAL archive')).toMatch(/; 1 file in errors: walwarden errors explain main\)$/);
    expect(await line(server, 'archiver errors')).toBe(
      'archiver errors: FAILED (unknown: 1; see: walwarden errors explain main)',
    );
  }));

test('an archive that is not mounted is not an empty one', () =>
  withServer({}, async (server) => {
    await archiveOne(server);
    await rm(server.wals, { recursive: true });
    await mkdir(server.wals, { mode: 0o700 });
    expect(await line(server, 'WAL archive')).toMatch(/FAILED \(the archive .* has no catalogue, though .*mounted\?/);
  }));

test('a catalogue with damaged lines fails, with the command that mends it', () =>
  withServer({}, async (server) => {
    await archiveOne(server);
    const path = join(server.wals, 'main-xlog.db');
    await writeFile(path, `rubbish\n${await readFile(path, 'latin1')}`);
    expect(await line(server, 'WAL archive')).toBe(
      'WAL archive: FAILED (the catalogue has 1 damaged line: walwarden rebuild-xlogdb main makes it anew)',
    );
  }));

test('segments that are missing among the newest are told, and are no failure', () =>
  withServer({}, async (server) => {
    for (const segment of [1, 2, 5]) await writeWal(server.incoming, { segment });
    await server.cli(['archive-wal', 'main']);
    expect(await line(server, 'WAL archive')).toMatch(
      /^WAL archive: OK \(2 segments missing, between 0{7}10{15}3 and 0{7}10{15}4: walwarden list-wals --gaps main/,
    );
    expect((await server.cli(['check', 'main'])).status).toBe(0);
  }));

test('many servers are checked, and told of, without a word on stderr', () =>
  withTempDir(async (home) => {
    const names = Array.from({ length: 12 }, (_, index) => `s${index}`);
    const conninfo = `host=${home} user=nobody dbname=postgres`;
    const servers = Object.fromEntries(names.map((name) => [name, { conninfo, streaming_archiver: 'on' }]));
    const config = await writeConfig(home, { servers });
    expect(await runCli(['check', 'all'], { config })).toMatchObject({ status: 1, stderr: '' });
    expect(await runCli(['status', 'all'], { config })).toMatchObject({ status: 0, stderr: '' });
  }));

test('a catalogue that can not be read fails', () =>
  withServer({}, async (server) => {
    await archiveOne(server);
    await unlink(join(server.wals, 'main-xlog.db'));
    await mkdir(join(server.wals, 'main-xlog.db'));
    expect(await line(server, 'WAL archive')).toMatch(/FAILED \(can't open the catalogue .* found a directory/);
  }));

test('files in the directory of an archiver that is off fail; the position marker alone does not', () =>
  withServer({}, async (server) => {
    await writeWal(server.streaming, { segment: 1 });
    expect(await line(server, 'empty streaming directory')).toBe('no empty streaming directory');
    await writeWal(server.streaming, { segment: 2 });
    expect(await line(server, 'empty streaming directory')).toMatch(
      /FAILED \(1 file in .*\/streaming will never be archived as long as streaming_archiver = off/,
    );
  }));

test('more files than max_incoming_wals_queue fail, temporaries not counted', () =>
  withServer({ max_incoming_wals_queue: 2 }, async (server) => {
    for (const segment of [1, 2]) await writeWal(server.incoming, { segment });
    await writeFile(join(server.incoming, `${wal.name}.tmp`), 'x');
    await writeFile(join(server.incoming, '.hidden'), 'x');
    expect(await line(server, 'incoming WALs directory')).toBe('no incoming WALs directory');
    await writeWal(server.incoming, { segment: 3 });
    expect(await line(server, 'incoming WALs directory')).toMatch(
      /FAILED \(3 files, max_incoming_wals_queue = 2; 3 files in .* wait, since .*, for the next archive-wal/,
    );
  }));

test('WAL older than last_wal_maximum_age fails, with the reason why nothing newer came', () =>
  withServer({ last_wal_maximum_age: '1 DAYS' }, async (server) => {
    await archiveOne(server, Date.now() / 1000 - 3 * 86_400);
    expect(await line(server, 'wal maximum age')).toMatch(
      new RegExp(
        `FAILED \\(the newest archived WAL, ${wal.name}, was written 3 days ago; last_wal_maximum_age is 1 day: ` +
          "nothing waits in .*: conninfo is not set, so PostgreSQL can't be asked why\\)$",
      ),
    );
    await writeWal(server.incoming, { segment: 2 });
    await server.cli(['archive-wal', 'main']);
    expect(await line(server, 'wal maximum age')).toMatch(/OK \(the newest archived WAL, 000000010000000000000002/);
  }));

test('a directory that is something else fails', () =>
  withServer({}, async (server) => {
    await rm(server.incoming, { recursive: true });
    await writeFile(server.incoming, '');
    expect(await line(server, 'directories')).toMatch(
      /FAILED \(.*incoming.*something else of that name; move that away/,
    );
  }));

test('a full disk and a read-only one are told, also as the cause of what waits', () =>
  withServer({}, async (server) => {
    await writeWal(server.incoming, { segment: 1 });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0755', 'tmpfs', server.wals]);
    try {
      expect(await line(server, 'directories')).toMatch(/FAILED \(the disk of .*\/wals is full: [\d.]+ [KM]iB left\)$/);
      expect(await line(server, 'WAL archive')).toMatch(
        /FAILED \(1 file in .* waits, since .*; the disk of .* is full/,
      );
      execFileSync('mount', ['-o', 'remount,ro', server.wals]);
      expect(await line(server, 'directories')).toMatch(
        /FAILED \(.*\/wals is on a file system that is mounted read-only\)$/,
      );
    } finally {
      execFileSync('umount', ['--lazy', server.wals]);
    }
  }));

test('missing directories are made, as Barman does', () =>
  withServer({}, async (server) => {
    await rm(server.errors, { recursive: true });
    expect(await line(server, 'directories')).toBe('directories: OK');
  }));

test('a compressor that is not installed fails, naming the package', () =>
  withServer({ compression: 'xz' }, async (server) => {
    expect(await line(server, 'compression settings')).toBe('compression settings: OK (xz)');
    await withTools(['sh', 'flock'], async (path) => {
      expect(await line(server, 'compression settings', { PATH: path })).toMatch(
        /FAILED .*xz.*apt-get install xz-utils/,
      );
    });
  }));

test('a custom filter that loses bytes fails', () =>
  withServer(
    {
      compression: 'custom',
      custom_compression_filter: 'head -c 100',
      custom_decompression_filter: 'cat',
      custom_compression_magic: '0x1234',
    },
    async (server) => {
      expect(await line(server, 'compression settings')).toMatch(/FAILED \(what compression = custom writes does not/);
    },
  ));

test('an encryption key that is not there fails', () =>
  withTempDir((gnupg) =>
    withServer({ encryption: 'gpg', encryption_key_id: 'nobody@example.com', gnupg_home: gnupg }, async (server) => {
      await chmod(gnupg, 0o700);
      expect(await line(server, 'encryption')).toMatch(/FAILED \(encryption key "nobody@example.com" is not found/);
      await run('gpgconf', ['--homedir', gnupg, '--kill', 'all'], {});
    }),
  ));

test('without flock no lock can be taken', () =>
  withServer({}, async (server) => {
    await withTools(['sh'], async (path) => {
      expect(await line(server, 'flock', { PATH: path })).toMatch(/FAILED \(.*flock.*install util-linux/);
    });
  }));

test('an archive of another cluster is no matter as long as nobody can be asked', () =>
  withServer({}, async (server) => {
    await writeFile(
      join(server.home, 'main', 'identity.json'),
      `{"systemid": "${TEST_SYSTEM_IDENTIFIER}", "version": "15"}`,
    );
    expect(await line(server, 'systemid coherence')).toMatch(/OK \(the system identifier of the server is not known/);
  }));

test('a damaged identity.json fails', () =>
  withServer({}, async (server) => {
    await writeFile(join(server.home, 'main', 'identity.json'), '{"systemid"');
    expect(await line(server, 'systemid coherence')).toMatch(/FAILED \(.*identity\.json is damaged/);
  }));

test('a server whose configuration is wrong fails by that alone; the others are checked', () =>
  withTempDir(async (home) => {
    const config = await writeConfig(home, { servers: { bad: { archiver: 'perhaps' }, good: {} } });
    const { status, stdout } = await runCli(['check', 'all'], { config });
    expect(status).toBe(1);
    expect(stdout).toMatch(
      /^Server bad \(WARNING: disabled\):\n\tconfiguration: FAILED \(.*archiver.*\)\nServer good:\n\tWAL/,
    );
  }));

test('an inactive server is checked, and its failures are no failure of the command', () =>
  withServer({ active: 'false' }, async (server) => {
    const { status, stdout } = await server.cli(['check', 'main']);
    expect(stdout).toMatch(/^Server main \(inactive\):\n\tWAL archive: FAILED/);
    expect(status).toBe(0);
    const nagios = await server.cli(['check', '--nagios', 'main']);
    expect(nagios.stdout).toMatch(/^BARMAN OK - no active server is configured \* IGNORING: main\|main_wals=0B\n$/);
    expect(nagios.status).toBe(0);
  }));

test('a passive server is checked without its PostgreSQL', () =>
  withServer({ primary_ssh_command: 'ssh barman@primary', conninfo: 'host=nowhere.invalid' }, async (server) => {
    expect(await checks(server)).toEqual([
      expect.stringMatching(/^WAL archive: FAILED \(this server is passive/),
      'directories: OK',
      expect.stringMatching(/^wal maximum age: OK/),
      expect.stringMatching(/^wal size: OK/),
      'compression settings: OK',
      expect.stringMatching(/^systemid coherence: OK/),
      'archiver errors: OK',
    ]);
  }));

test('nagios output is one line and exit status 0 while all is well, else 2 with a line for each failure', () =>
  withServer({}, async (server) => {
    const bad = await server.cli(['check', '--nagios', 'main']);
    expect(bad.status).toBe(2);
    expect(bad.stdout).toMatch(
      /^BARMAN CRITICAL - server main needs attention \* main FAILED: WAL archive\|main_wals=0B\nmain\.WAL archive: FAILED \(nothing ever arrived.*\)\n$/,
    );
    await archiveOne(server);
    const good = await server.cli(['check', '--nagios', 'main']);
    expect(good.status).toBe(0);
    expect(good.stdout).toMatch(
      /^BARMAN OK - WAL of main is safe and sound: no gap in 1 catalogued file; never listed; the newest, .*, 1 file, looked at now\|main_wals=\d+B\n$/,
    );
  }));

test('for a monitoring system, also what keeps us from checking is critical, on stdout', () =>
  withServer({}, async (server) => {
    const unknown = await server.cli(['check', '--nagios', 'mian']);
    expect(unknown).toMatchObject({
      status: 2,
      stdout: expect.stringMatching(/^BARMAN CRITICAL - unknown server "mian"/),
    });
    const missing = await server.cli(['check', '--nagios', 'main'], { config: join(server.home, 'none.conf') });
    expect(missing).toMatchObject({ status: 2, stdout: expect.stringMatching(/^BARMAN CRITICAL - .*none\.conf/) });
  }));

test('an unknown server is an error with a suggestion', () =>
  withServer({}, async (server) => {
    expect(await server.cli(['check', 'mian'])).toMatchObject({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(/^ERROR: unknown server "mian".*\nHINT: did you mean "main"\?\n$/),
    });
  }));

test('a check touches neither the archive nor the lock of a pass at work', () =>
  withServer({}, async (server) => {
    await archiveOne(server);
    await writeWal(server.incoming, { segment: 2 });
    await using _lock = await acquireLock(join(server.home, '.main-archive-wal.lock'));
    const before = await readFile(join(server.wals, 'main-xlog.db'));
    expect((await server.cli(['check', 'main'])).status).toBe(0);
    expect(await readFile(join(server.wals, 'main-xlog.db'))).toEqual(before);
  }));

test('the newest WAL is found by its time, wherever it stands in the catalogue', () =>
  withServer({ last_wal_maximum_age: '1 HOURS' }, async (server) => {
    const info = (segment: number, mtime: number): string =>
      toXlogdbLine({ name: makeWal({ segment }).name, size: 1, mtime, compression: null, encryption: null });
    const now = Date.now() / 1000;
    await writeFile(join(server.wals, 'main-xlog.db'), info(1, now) + info(2, now - 90_000));
    await utimes(server.wals, now, now);
    expect(await line(server, 'wal maximum age')).toMatch(/OK \(the newest archived WAL, 000000010000000000000001/);
  }));

/** A directory for PATH that has these programs only. */
async function withTools<T>(names: readonly string[], body: (path: string) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    for (const name of names) {
      const { stdout } = await run('sh', ['-c', `command -v ${name}`], {});
      await symlink(stdout.trim(), join(directory, name));
    }
    return body(directory);
  });
}
