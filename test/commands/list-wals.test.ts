import { appendFile, mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { segmentName, walName } from '../../src/wal/wal-name.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { withBarmanFixture } from '../support/fixture.ts';
import { configured, json, placeStored, withServer, type TestServer } from './with-server.ts';

const name = (segment: number, timeline = 1): string => segmentName(timeline, BigInt(segment), 1 << 20);

async function catalogue(server: TestServer, lines: readonly string[]): Promise<void> {
  await writeFile(join(server.wals, 'main-xlog.db'), lines.map((line) => `${line}\n`).join(''));
  // The segment size is read from one of the newest archived segments.
  const wal = makeWal({ timeline: 2, segment: 9 });
  // As many bytes as its line says.
  await placeStored(server, wal.name, wal.bytes.subarray(0, 100));
}

const line = (wal: string, size = 100, compression = 'zstd', encryption = 'None'): string =>
  `${wal}\t${size}\t1700000000.5\t${compression}\t${encryption}`;

const archive = [
  line(name(1), 1 << 20, 'None'),
  line(name(2)),
  line(name(3), 200, 'gzip', 'gpg'),
  line(`${name(3)}.00000028.backup`, 50),
  line(name(7)),
  line(name(9)),
  line('00000002.history', 41, 'None'),
  line(name(9, 2)),
  line(`${name(10, 2)}.partial`, 30),
];

test('tells ranges, gaps, sizes and compressions of every timeline', () =>
  withServer({}, async (server) => {
    await catalogue(server, archive);
    const { status, stdout, stderr } = await server.cli(['list-wals', 'main']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toBe(
      [
        'Server main, segments of 1.00 MiB:',
        '\tTimeline 1: 5 segments, 1 backup label, 1.00 MiB stored (none 1 file 1.00 MiB, zstd 4 files 350 B, gzip 1 file 200 B)',
        `\t\t${name(1)} - ${name(3)} (3 segments)`,
        `\t\t${name(7)}`,
        `\t\t${name(9)}`,
        `\t\tMISSING ${name(4)} - ${name(6)} (3 segments)`,
        `\t\tMISSING ${name(8)}`,
        '\t\t1 file encrypted',
        '\tTimeline 2: 1 segment, 1 partial file, 1 history file, 171 B stored (none 1 file 41 B, zstd 2 files 130 B)',
        `\t\t${name(9, 2)}`,
        '',
      ].join('\n'),
    );
  }));

test('has a JSON form that stays as it is', () =>
  withServer({}, async (server) => {
    await catalogue(server, archive);
    expect(json(await server.cli(['-f', 'json', 'list-wals', '--timeline', '1', 'main']))).toEqual({
      server: 'main',
      segmentSize: 1 << 20,
      timelines: [
        {
          timeline: 1,
          firstName: name(1),
          lastName: name(9),
          segments: 5,
          partials: 0,
          backups: 1,
          histories: 0,
          misfits: 0,
          duplicates: 0,
          stored: { files: 6, bytes: 1_048_576 + 550 },
          encrypted: { files: 1, bytes: 200 },
          byCompression: {
            none: { files: 1, bytes: 1 << 20 },
            zstd: { files: 4, bytes: 350 },
            gzip: { files: 1, bytes: 200 },
          },
          ranges: [
            { first: name(1), last: name(3), segments: 3 },
            { first: name(7), last: name(7), segments: 1 },
            { first: name(9), last: name(9), segments: 1 },
          ],
          gaps: [
            { first: name(4), last: name(6), segments: 3 },
            { first: name(8), last: name(8), segments: 1 },
          ],
        },
      ],
      oddSizes: [],
    });
    expect(json(await server.cli(['-f', 'json', 'list-wals', '--gaps', 'main']))).toEqual({
      server: 'main',
      segmentSize: 1 << 20,
      gaps: [
        { first: name(4), last: name(6), segments: 3 },
        { first: name(8), last: name(8), segments: 1 },
      ],
      oddSizes: [],
    });
  }));

test('--gaps is 1 and one line a gap when there is one, else 0', () =>
  withServer({}, async (server) => {
    await catalogue(server, archive);
    expect(await server.cli(['list-wals', '--gaps', 'main'])).toMatchObject({
      status: 1,
      stdout: `${name(4)} - ${name(6)} (3 segments)\n${name(8)}\n`,
    });
    expect(await server.cli(['list-wals', '--gaps', '--timeline', '2', 'main'])).toMatchObject({
      status: 0,
      stdout: 'Server main: no gaps\n',
    });
    expect(await server.cli(['-q', 'list-wals', '--gaps', 'main'])).toMatchObject({ status: 1, stdout: '' });
  }));

test('--timeline shows that one only', () =>
  withServer({}, async (server) => {
    await catalogue(server, archive);
    const { stdout } = await server.cli(['list-wals', '--timeline', '2', 'main']);
    expect(stdout).toContain('Timeline 2');
    expect(stdout).not.toContain('Timeline 1');
    expect(await server.cli(['list-wals', '--timeline', '3', 'main'])).toMatchObject({
      status: 0,
      stdout: 'Server main: nothing archived of timeline 3 yet\n',
    });
    for (const wrong of ['0', '-1', 'two', '1.5']) {
      expect((await server.cli(['list-wals', `--timeline=${wrong}`, 'main'])).status).toBe(2);
    }
  }));

test('an archive without anything is no error, nor has it gaps', () =>
  withServer({}, async (server) => {
    expect(await server.cli(['list-wals', 'main'])).toMatchObject({
      status: 0,
      stdout: 'Server main: nothing archived yet\n',
    });
    expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(0);
    expect(json(await server.cli(['-f', 'json', 'list-wals', 'main']))).toMatchObject({
      server: 'main',
      timelines: [],
    });
  }));

test('knows the segment size of the archive, so that the log boundary is no gap', () =>
  withServer({}, async (server) => {
    const size = 64 << 20;
    await writeWal(server.incoming, { segment: 62, size });
    await writeWal(server.incoming, { segment: 63, size });
    await writeWal(server.incoming, { segment: 64, size });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    const { stdout } = await server.cli(['list-wals', 'main']);
    expect(stdout).toContain('segments of 64.0 MiB');
    expect(stdout).toContain(`${segmentName(1, 62n, size)} - ${segmentName(1, 64n, size)} (3 segments)`);
    expect(segmentName(1, 64n, size)).toBe('000000010000000100000000');
  }));

test('tells of damaged lines, by line number, and is 1; an unended last one may just be written', () =>
  withServer({}, async (server) => {
    await catalogue(server, [line(name(1)), line(name(2))]);
    await placeStored(server, walName(name(1)), makeWal({ segment: 1 }).bytes.subarray(0, 100));
    await appendFile(join(server.wals, 'main-xlog.db'), `${name(3)}\t10`);
    const unended = await server.cli(['list-wals', 'main']);
    expect(unended).toMatchObject({ status: 0, stderr: '' });
    expect(unended.stdout).toContain(`${name(1)} - ${name(2)} (2 segments)`);
    expect(unended.stdout).not.toContain(name(3));

    await catalogue(server, [line(name(1)), 'garbage', '', line(name(2))]);
    const damaged = await server.cli(['list-wals', 'main']);
    expect(damaged.status).toBe(1);
    expect(damaged.stdout).toBe(unended.stdout);
    expect(damaged.stderr).toContain(
      String.raw`the catalogue has 2 damaged lines, the first is line 2: \"garbage\"; walwarden rebuild-xlogdb main`,
    );
  }));

test('rebuild-xlogdb makes the catalogue from the files: sorted, with history, without what is no WAL', () =>
  withServer({}, async (server) => {
    const stored = [
      [name(2), gzipSync(makeWal({ segment: 2 }).bytes)],
      [name(1), makeWal({ segment: 1 }).bytes],
      ['00000002.history', Buffer.from('1\t0/3000000\tx\n')],
      [`${name(3)}.partial`, makeWal({ segment: 3 }).bytes],
    ] as const;
    for (const [wal, bytes] of stored) await placeStored(server, walName(wal), bytes);
    await writeFile(join(server.wals, name(1).slice(0, 16), `${name(4)}.tmp`), 'left over');
    await writeFile(join(server.wals, name(1).slice(0, 16), '.barman-is-reading'), 'x');
    await mkdir(join(server.wals, 'lost+found'));
    const { status, stdout } = await server.cli(['rebuild-xlogdb', 'main']);
    expect({ status, stdout }).toEqual({ status: 0, stdout: 'Rebuilt the catalogue of server main: 4 files\n' });
    const lines = (await readFile(join(server.wals, 'main-xlog.db'), 'utf8')).trim().split('\n');
    expect(lines.map((text) => text.replace(/\t\d+\.\d+\t/, '\tMTIME\t'))).toEqual([
      `${name(1)}\t1048576\tMTIME\tNone\tNone`,
      `${name(2)}\t${stored[0][1].length}\tMTIME\tgzip\tNone`,
      `${name(3)}.partial\t1048576\tMTIME\tNone\tNone`,
      '00000002.history\t14\tMTIME\tNone\tNone',
    ]);
    expect(json(await server.cli(['-f', 'json', 'rebuild-xlogdb', 'main']))).toEqual({ server: 'main', files: 4 });
  }));

test('rebuild-xlogdb of an empty archive, and of a catalogue of nothing but garbage', () =>
  withServer({}, async (server) => {
    expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
    await writeFile(join(server.wals, 'main-xlog.db'), Buffer.from('\0\xff garbage\n\n\t\t\n'));
    await rm(join(server.home, '.main-xlogdb.lock'), { force: true });
    expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
    expect(await readFile(join(server.wals, 'main-xlog.db'), 'utf8')).toBe('');
  }));

test('a home of Barman is listed as it is, without a byte being changed', () =>
  withBarmanFixture(async ({ home }) => {
    const at = (directory: string): string => join(home, 'main', directory);
    const server = await configured(
      {
        home,
        server: 'main',
        incoming: at('incoming'),
        streaming: at('streaming'),
        wals: at('wals'),
        errors: at('errors'),
      },
      { compression: 'zstd' },
    );
    const before = await readFile(join(server.wals, 'main-xlog.db'));
    expect((await server.cli(['list-wals', 'main'])).status).toBe(0);
    expect((await readFile(join(server.wals, 'main-xlog.db'))).equals(before)).toBe(true);
  }));

test('a stored file that is empty is no segment, and one of another size than its line is told', () =>
  withServer({}, async (server) => {
    for (const segment of [1, 2, 3, 4]) await writeWal(server.incoming, { segment });
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    expect(await server.cli(['list-wals', 'main'])).toMatchObject({ status: 0, stderr: '' });
    const path = (segment: number): string => join(server.wals, name(segment).slice(0, 16), name(segment));
    await truncate(path(2), 0);
    await truncate(path(3), 70_000);
    const listed = await server.cli(['list-wals', 'main']);
    expect(listed.status).toBe(1);
    expect(listed.stdout).toContain(`MISSING ${name(2)}\n`);
    expect(listed.stdout).toContain('Timeline 1: 3 segments');
    expect(listed.stderr).toContain(`${name(2)} is stored with 0 bytes, and its line says 1048576`);
    expect(listed.stderr).toContain(`${name(3)} is stored with 70000 bytes, and its line says 1048576`);
    expect(await server.cli(['list-wals', '--gaps', 'main'])).toMatchObject({ status: 1, stdout: `${name(2)}\n` });
    const oddSizes = [
      { name: name(2), stored: 0, listed: 1 << 20 },
      { name: name(3), stored: 70_000, listed: 1 << 20 },
    ];
    expect(json(await server.cli(['-f', 'json', 'list-wals', 'main']))).toMatchObject({ oddSizes });
    // check goes by the last listing, and by a look at some files.
    const seen = await server.cli(['check', 'main']);
    expect(seen.stdout).toMatch(
      /archived files: FAILED \(2 stored files of another size than the catalogue says: .*\(looked at now\)/,
    );
    await server.cli(['list-wals', '--stored', 'main']);
    expect((await server.cli(['check', 'main'])).stdout).toContain(`WAL archive: OK (1 segment missing, ${name(2)}`);
    expect((await server.cli(['check', 'main'])).stdout).toMatch(
      /archived files: FAILED \(2 stored files of another size than the catalogue says: 0{7}10{15}2 \(0 bytes\), 0{7}10{15}3 \(70000 bytes\)/,
    );
    const rebuilt = await server.cli(['rebuild-xlogdb', 'main']);
    expect(rebuilt.stderr).toContain(`${path(2)} is empty, and gets no line`);
    const lines = (await readFile(join(server.wals, 'main-xlog.db'), 'utf8')).split('\n');
    expect(lines.map((text) => text.split('\t').slice(0, 2).join(' '))).toEqual([
      `${name(1)} 1048576`,
      `${name(3)} 70000`,
      `${name(4)} 1048576`,
      '',
    ]);
    expect(await server.cli(['list-wals', '--gaps', 'main'])).toMatchObject({ status: 1, stdout: `${name(2)}\n` });
  }));
