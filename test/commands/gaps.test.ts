import { readFile, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { ensureBuilt } from '../support/cli.ts';
import { makeWal, writeWal, type WalOptions } from '../support/make-wal.ts';
import { json, placeStored, withServer, type TestServer } from './with-server.ts';

const wal = (segment: number, timeline = 1): string => segmentName(timeline, BigInt(segment), 1 << 20);

/** Segments that are archived, without a history file. */
async function withArchive(
  segments: readonly WalOptions[],
  body: (server: TestServer) => Promise<void>,
  options: Readonly<Record<string, string>> = {},
): Promise<void> {
  await withServer(options, async (server) => {
    for (const segment of segments) await writeWal(server.incoming, segment);
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
    await body(server);
  });
}

async function archive(server: TestServer, options: WalOptions): Promise<void> {
  await writeWal(server.incoming, options);
  expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
}

const nagios = async (server: TestServer): Promise<{ status: number | null; stdout: string }> => {
  const { status, stdout } = await server.cli(['check', '--nagios', 'main']);
  return { status, stdout };
};

const acknowledge = (server: TestServer, range: string, reason = 'the disk died') =>
  server.cli(['list-wals', '--acknowledge-gap', range, '--reason', reason, 'main']);

const OK = { status: 0, stdout: expect.stringMatching(/^BARMAN OK - /) };
const gap = [1, 2, 5, 6].map((segment) => ({ segment }));

beforeAll(ensureBuilt);

describe('missing WAL', () => {
  test('is a warning of check --nagios, named in its line, and no failure of check', () =>
    withArchive(gap, async (server) => {
      const found = await nagios(server);
      expect(found.status).toBe(1);
      expect(found.stdout).toMatch(
        new RegExp(
          `^BARMAN WARNING - server main needs a look \\* main WARNING: WAL archive \\(2 segments missing, between ${wal(3)} and ${wal(4)}: .*\\)\\|main_wals=\\d+B\\n$`,
        ),
      );
      expect(await server.cli(['check', 'main'])).toMatchObject({ status: 0 });
      expect(json(await server.cli(['-f', 'json', 'check', 'main']))).toMatchObject([
        {
          ok: true,
          checks: expect.arrayContaining([
            expect.objectContaining({ check: 'WAL archive', ok: true, severity: 'warning' }),
          ]),
        },
      ]);
    }));

  test('far behind the newest thousand files is seen as well', () =>
    withArchive([{ segment: 1 }], async (server) => {
      const lines = [1, 3, ...Array.from({ length: 5000 }, (_, index) => index + 4)].map(
        (segment) => `${wal(segment)}\t1048576\t1.5\tNone\tNone\n`,
      );
      await writeFile(join(server.wals, 'main-xlog.db'), lines.join(''));
      expect((await server.cli(['check', 'main'])).stdout).toContain(`1 segment missing, ${wal(2)}: `);
    }));

  test.each([
    ['critical', 2, /^BARMAN CRITICAL - server main needs attention \* main FAILED: WAL archive\|/, 1],
    ['ok', 0, /^BARMAN OK - WAL of main is safe and sound: 1 gap that gap_severity makes nothing of; /, 0],
  ] as const)('with gap_severity = %s is what that says', (severity, status, line, plain) =>
    withArchive(
      gap,
      async (server) => {
        expect(await nagios(server)).toEqual({ status, stdout: expect.stringMatching(line) });
        expect((await server.cli(['check', 'main'])).status).toBe(plain);
      },
      { gap_severity: severity },
    ),
  );

  test('that was acknowledged is shown, durably, and no alarm', () =>
    withArchive(gap, async (server) => {
      expect(await acknowledge(server, `${wal(1)}..${wal(6)}`)).toMatchObject({
        status: 0,
        stdout: `Server main: ${wal(3)} - ${wal(4)} (2 segments) acknowledged as missing: the disk died\n`,
      });
      expect(await nagios(server)).toEqual({
        status: 0,
        stdout: expect.stringContaining('no gap but 1 acknowledged one in 4 catalogued files'),
      });
      expect((await server.cli(['list-wals', 'main'])).stdout).toMatch(
        new RegExp(
          `\\t\\tMISSING ${wal(3)} - ${wal(4)} \\(2 segments\\), acknowledged \\d{4}-.* UTC: the disk died\\n`,
        ),
      );
      const only = await server.cli(['list-wals', '--gaps', 'main']);
      expect(only).toMatchObject({ status: 0, stdout: expect.stringMatching(/acknowledged .*: the disk died\n$/) });
      expect(json(await server.cli(['-f', 'json', 'list-wals', '--gaps', 'main']))).toMatchObject({
        gaps: [
          {
            first: wal(3),
            last: wal(4),
            segments: 2,
            acknowledged: { reason: 'the disk died', at: expect.any(Number) },
          },
        ],
      });
      expect(JSON.parse(await readFile(join(server.home, 'main', '.gaps.json'), 'utf8'))).toMatchObject({
        acknowledged: [{ first: wal(3), last: wal(4), reason: 'the disk died' }],
      });
    }));

  test('that is filled in part stays acknowledged for the rest; when it is lost again it is an alarm again', () =>
    withArchive(gap, async (server) => {
      await acknowledge(server, `${wal(3)}..${wal(4)}`);
      await archive(server, { segment: 3 });
      expect(await nagios(server)).toMatchObject(OK);
      expect((await server.cli(['list-wals', '--gaps', 'main'])).stdout).toMatch(
        new RegExp(`^${wal(4)}, acknowledged`),
      );
      await unlink(join(server.wals, wal(3).slice(0, 16), wal(3)));
      expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
      const again = await nagios(server);
      expect(again.status).toBe(1);
      expect(again.stdout).toContain(`1 segment missing, ${wal(3)}: `);
    }));

  test('that grows beyond what was acknowledged is an alarm for the rest', () =>
    withArchive(gap, async (server) => {
      await acknowledge(server, `${wal(3)}..${wal(4)}`);
      await unlink(join(server.wals, wal(5).slice(0, 16), wal(5)));
      await server.cli(['rebuild-xlogdb', 'main']);
      expect((await nagios(server)).stdout).toContain(`1 segment missing, ${wal(5)}: `);
      expect(await server.cli(['list-wals', '--gaps', 'main'])).toMatchObject({
        status: 1,
        stdout: expect.stringMatching(
          new RegExp(`^${wal(3)} - ${wal(4)} \\(2 segments\\), acknowledged .*\\n${wal(5)}\\n$`),
        ),
      });
    }));

  test.each<[string, readonly string[], number, string]>([
    ['without a reason', ['--acknowledge-gap', `${wal(3)}..${wal(4)}`], 2, 'together with --reason TEXT'],
    [
      'with an empty one',
      ['--acknowledge-gap', `${wal(3)}..${wal(4)}`, '--reason', ' '],
      2,
      'together with --reason TEXT',
    ],
    ['a reason alone', ['--reason', 'x'], 2, 'together with --reason TEXT'],
    [
      'the other way round',
      ['--acknowledge-gap', `${wal(4)}..${wal(3)}`, '--reason', 'x'],
      2,
      'expected two segments of one timeline',
    ],
    [
      'across timelines',
      ['--acknowledge-gap', `${wal(3)}..${wal(4, 2)}`, '--reason', 'x'],
      2,
      'expected two segments of one timeline',
    ],
    ['no WAL name', ['--acknowledge-gap', 'x..y', '--reason', 'x'], 3, 'not the name of a WAL file: "x"'],
    [
      'where nothing is missing',
      ['--acknowledge-gap', `${wal(1)}..${wal(2)}`, '--reason', 'x'],
      2,
      `1 gap: ${wal(3)}..${wal(4)}`,
    ],
  ])('can not be acknowledged %s', (_what, args, status, said) =>
    withArchive(gap, async (server) => {
      const refused = await server.cli(['list-wals', ...args, 'main']);
      expect(refused.stderr).toContain(said);
      expect(refused.status).toBe(status);
      expect((await nagios(server)).status).toBe(1);
    }),
  );
});

describe('a missing history file', () => {
  test('of a timeline that came from an archived one is a warning, and can be acknowledged', () =>
    withArchive([{ segment: 1 }, { segment: 2 }, { segment: 2, timeline: 2 }], async (server) => {
      const found = await nagios(server);
      expect(found.status).toBe(1);
      expect(found.stdout).toContain('history missing, 00000002.history');
      expect((await server.cli(['list-wals', 'main'])).stdout).toContain('\t\tMISSING 00000002.history\n');
      expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(1);
      expect((await acknowledge(server, '00000002.history')).status).toBe(0);
      expect(await nagios(server)).toMatchObject(OK);
    }));

  test('is none in an archive that began on that timeline', () =>
    withArchive(
      [
        { segment: 2, timeline: 2 },
        { segment: 3, timeline: 2 },
      ],
      async (server) => {
        expect(await nagios(server)).toMatchObject(OK);
        expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(0);
      },
    ));
});

describe('WAL of another system identifier', () => {
  const upgraded = { segment: 9, systemIdentifier: 42n } as const;

  test('is no gap after resolve --accept-identity, from the first moment on', () =>
    withArchive([{ segment: 1 }, { segment: 2 }], async (server) => {
      await writeWal(server.incoming, upgraded);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
      const [file = ''] = (await server.cli(['errors', 'list', 'main'])).stdout.match(/[0-9A-F]{24}\.\S+unknown/) ?? [];
      expect((await server.cli(['errors', 'resolve', '--accept-identity', 'main', file])).status).toBe(0);
      expect((await server.cli(['archive-wal', 'main'])).status).toBe(0);
      // What is remembered is enough: the segments beside it need not be read.
      for (const segment of [2, 9]) {
        await writeFile(join(server.wals, wal(segment).slice(0, 16), wal(segment)), Buffer.alloc(1 << 20, 'x'));
      }
      expect(await nagios(server)).toMatchObject({ stdout: expect.not.stringContaining('missing,') });
      expect((await server.cli(['list-wals', '--gaps', 'main'])).status).toBe(0);
      await archive(server, { ...upgraded, segment: 11 });
      expect((await nagios(server)).stdout).toContain(`1 segment missing, ${wal(10)}: `);
    }));

  test('is no gap in an archive that is older than the memory of it: the segments beside it tell', () =>
    withArchive([{ segment: 1 }, { segment: 2 }], async (server) => {
      for (const segment of [9, 11]) {
        const { name, bytes } = makeWal({ ...upgraded, segment });
        await placeStored(server, name, bytes);
      }
      expect((await server.cli(['rebuild-xlogdb', 'main'])).status).toBe(0);
      const found = await nagios(server);
      expect(found.status).toBe(1);
      expect(found.stdout).toContain(`1 segment missing, ${wal(10)}: `);
      expect((await server.cli(['list-wals', '--gaps', 'main'])).stdout).toBe(`${wal(10)}\n`);
    }));
});
