import { chmod, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { describeS3 } from '../support/s3.ts';
import type { S3Endpoint } from '../support/s3-endpoint.ts';
import { segmentsIn, type Pass, type Timeline } from './postgres-archive.ts';
import { withStreamingHome, type StreamingHome } from './running-receiver.ts';
import { keysIn, s3Options, segmentKey } from './s3-archive.ts';

interface StreamingPass extends Pass {
  readonly archiver: string;
  readonly failed: readonly unknown[];
  readonly overdue: readonly unknown[];
}

/** One run of archive-wal without trouble: its passes. */
async function archiveWal(home: StreamingHome): Promise<StreamingPass[]> {
  const { status, stdout, stderr } = await home.cli(['-f', 'json', 'archive-wal', 'main']);
  expect(status, stderr + stdout).toBe(0);
  const [report]: { passes: StreamingPass[] }[] = JSON.parse(stdout);
  for (const { conflicts, unknown, failed, overdue } of report?.passes ?? []) {
    expect({ conflicts, unknown, failed, overdue }).toMatchObject({ conflicts: [], unknown: [] });
    expect([failed ?? [], overdue ?? []]).toEqual([[], []]);
  }
  return report?.passes ?? [];
}

const namesOf = (passes: readonly StreamingPass[]): string[] =>
  passes.flatMap(({ archived }) => archived.map(({ name }) => name));

async function timelines(home: StreamingHome): Promise<Timeline[]> {
  const { status, stdout, stderr } = await home.cli(['-f', 'json', 'list-wals', 'main']);
  expect(status, stderr).toBe(0);
  const report: { timelines: Timeline[] } = JSON.parse(stdout);
  return report.timelines;
}

/** Every segment from `first` to `last` is in the bucket, once, and get-wal hands it out as the server has it. */
async function expectStoredOnce(
  pg: TestPostgres,
  home: StreamingHome,
  endpoint: S3Endpoint,
  first: string,
  last: string,
): Promise<string[]> {
  const names = (await segmentsIn(pg.walDir, last)).filter((name) => name >= first);
  expect(names).toContain(first);
  const keys = await keysIn(endpoint);
  for (const name of names) {
    expect(keys.filter((key) => key.includes(name))).toEqual([segmentKey(name, '.zst')]);
    const { status, bytes, stderr } = await home.cli(['get-wal', 'main', name]);
    expect(status, stderr).toBe(0);
    expect(bytes.equals(await readFile(join(pg.walDir, name))), name).toBe(true);
  }
  return names;
}

describeS3(
  'streaming into a bucket',
  (s3) => {
    test('receive-wal receives and archive-wal stores; the last segment of an idle server is stored and marks the position', () =>
      s3.withBucket((endpoint) =>
        withStreamingHome({ server: { ...s3Options(endpoint), compression: 'zstd' } }, async (pg, home) => {
          const receiver = await home.startStreaming();
          const archived: string[] = [];
          let last = await pg.writeSegments(2);
          const first = (await home.expectReceived(pg, last))[0] ?? '';
          for (let round = 0; round < 3; round += 1) {
            archived.push(...namesOf(await archiveWal(home)));
            last = await pg.writeSegments(4);
          }
          await home.expectReceived(pg, last);
          archived.push(...namesOf(await archiveWal(home)));
          expect(archived).toEqual([...new Set(archived)]);
          await expectStoredOnce(pg, home, endpoint, first, last);

          // Until the server has nothing of its own to write behind it: then only the marker is left.
          last = await until('an idle server', async () => {
            const name = await pg.writeSegments(1);
            await home.expectReceived(pg, name);
            await archiveWal(home);
            const waiting = (await readdir(home.streaming)).filter((entry) => !entry.endsWith('.partial'));
            return waiting.join() === name && name;
          });
          for (let again = 0; again < 2; again += 1) {
            expect(await archiveWal(home)).toMatchObject([{ archived: [], duplicates: [], waiting: 0 }]);
          }
          expect(await readdir(home.streaming)).toContain(last);
          await receiver.stop();
          const names = await expectStoredOnce(pg, home, endpoint, first, last);
          expect(await timelines(home)).toMatchObject([
            { segments: names.length, ranges: [{ first, last }], gaps: [] },
          ]);

          // It goes on from the marker; what is received twice is stored once.
          const next = await pg.writeSegments(2);
          const again = await home.startStreaming();
          await home.expectReceived(pg, next);
          await archiveWal(home);
          await again.stop();
          await expectStoredOnce(pg, home, endpoint, first, next);
          expect((await timelines(home))[0]?.gaps).toEqual([]);
        }),
      ));

    test('a segment that comes both ways, by archive_command and by streaming, is stored once', () =>
      s3.withBucket((endpoint) =>
        withStreamingHome(
          { server: { ...s3Options(endpoint), compression: 'zstd', archiver: 'on' }, start: false },
          async (pg, home) => {
            const { incoming } = home.home;
            await pg.giveToServer(incoming);
            await chmod(dirname(incoming), 0o755);
            await pg.configure({ archive_mode: 'on', archive_command: `cp %p ${incoming}/%f` });
            await pg.start();
            const receiver = await home.startStreaming();
            let last = await pg.writeSegments(2);
            const first = (await home.expectReceived(pg, last))[0] ?? '';
            const passes: StreamingPass[] = [];
            for (let round = 0; round < 3; round += 1) {
              // Both deliver while we archive.
              const writing = pg.writeSegments(5);
              passes.push(...(await archiveWal(home)));
              last = await writing;
            }
            await pg.archived(last);
            await home.expectReceived(pg, last);
            await receiver.stop();
            passes.push(...(await archiveWal(home)), ...(await archiveWal(home)));
            const archived = namesOf(passes);
            expect(archived).toEqual([...new Set(archived)]);
            expect(new Set(passes.map(({ archiver }) => archiver)).size).toBe(2);
            expect(passes.flatMap(({ duplicates }) => duplicates).length).toBeGreaterThan(0);
            const names = await expectStoredOnce(pg, home, endpoint, first, last);
            expect(names.length).toBeGreaterThan(15);
            expect((await timelines(home))[0]).toMatchObject({ gaps: [] });
            expect(await readdir(incoming)).toEqual([]);
            expect(await readdir(home.home.errors)).toEqual([]);
            const lines = (await readFile(join(home.home.wals, 'main-xlog.db'), 'utf8')).trimEnd().split('\n');
            const catalogued = lines.map((line) => line.split('\t')[0] ?? '');
            expect(catalogued).toEqual([...new Set(catalogued)].sort());
          },
        ),
      ));
  },
  ['rgw'],
);
