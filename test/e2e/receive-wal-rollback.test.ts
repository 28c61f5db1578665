import { readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { endOfContent } from '../../src/receiver/partial-content.ts';
import { resetReceiver } from '../../src/receiver/manage.ts';
import { prepareToStream } from '../../src/receiver/preflight.ts';
import { formatLsn } from '../../src/wal/lsn.ts';
import { segmentOfLsn } from '../../src/wal/wal-name.ts';
import { streamUntil, withReceiver, type TestReceiver } from '../receiver/with-receiver.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { run } from '../support/run.ts';
import { withStreamingHome } from './running-receiver.ts';

const SEGMENT_MB = 16;

/** A record that is in no other history. */
const write = (pg: TestPostgres, bytes: number, what: string): Promise<unknown> =>
  pg.sql(`select pg_logical_emit_message(false, '${what}', repeat('${what}', ${Math.ceil(bytes / what.length)}))`);

/** What was flushed; nothing waits for a message that no transaction needs. */
async function flushed(pg: TestPostgres): Promise<bigint> {
  await pg.sql('create table if not exists flush_now ()');
  await pg.sql('drop table flush_now');
  return pg.currentLsn();
}

/** The server as it was before `meanwhile`: a snapshot of its storage was restored. */
async function rollBack(pg: TestPostgres, meanwhile: () => Promise<void>): Promise<void> {
  const snapshot = `${pg.dataDir}.snapshot`;
  await pg.stop();
  expect((await run('cp', ['-a', pg.dataDir, snapshot], {})).status).toBe(0);
  await pg.start();
  await meanwhile();
  await pg.stop('immediate');
  await rm(pg.dataDir, { recursive: true });
  await rename(snapshot, pg.dataDir);
  await pg.start();
}

const partialOf = async (pg: TestPostgres): Promise<string> =>
  `${segmentOfLsn(1, await pg.currentLsn(), pg.segmentSize)}.partial`;

/** Until everything that the server has flushed is in a partial file. */
async function receiveAll(pg: TestPostgres, { settings, streaming }: TestReceiver, lsn: bigint): Promise<void> {
  const path = join(streaming, await partialOf(pg));
  await streamUntil(
    settings,
    formatLsn(lsn),
    async () => (await contentOf(path)) >= Number(lsn % BigInt(pg.segmentSize)) - 8,
  );
}

async function contentOf(path: string): Promise<number> {
  try {
    return await endOfContent(path);
  } catch {
    return 0;
  }
}

describe('a server that lost WAL inside the segment that is being received', () => {
  test('is refused, and a reset keeps what was received', () =>
    withPostgres({ segmentSizeMb: SEGMENT_MB }, (pg) =>
      withReceiver(pg, {}, async (receiver) => {
        const { settings, streaming, errors } = receiver;
        await write(pg, 100_000, 'both');
        await receiveAll(pg, receiver, await flushed(pg));
        await rollBack(pg, async () => {
          await write(pg, 1_000_000, 'lost');
          await receiveAll(pg, receiver, await flushed(pg));
        });
        const name = await partialOf(pg);
        const before = await readFile(join(streaming, name));
        await expect(prepareToStream(settings)).rejects.toMatchObject({
          failure: 'timeline-diverged',
          message: expect.stringMatching(/received up to \S+ of timeline 1, but the server has only written up to/),
          hint: expect.stringContaining('walwarden receive-wal --reset main'),
        });
        expect((await readFile(join(streaming, name))).equals(before)).toBe(true);

        expect(await resetReceiver(settings)).toContain(`Moving status file ${join(streaming, name)} to ${errors}/`);
        const [moved = ''] = await readdir(errors);
        expect(moved).toMatch(new RegExp(`^${name}\\.\\d{8}T\\d{6}Z\\.reset$`));
        expect((await readFile(join(errors, moved))).equals(before)).toBe(true);
        await receiveAll(pg, receiver, await flushed(pg));
      }),
    ));

  test('is found out also when it has written other WAL meanwhile; what was received is kept', () =>
    withStreamingHome({ segmentSizeMb: SEGMENT_MB, settings: { max_wal_size: '256MB' } }, async (pg, home) => {
      const received = async (lsn: bigint): Promise<void> => {
        const path = join(home.streaming, await partialOf(pg));
        const enough = Number(lsn % BigInt(pg.segmentSize)) - 8;
        await until('it to be received', async () => (await contentOf(path)) >= enough);
      };
      const first = await home.startStreaming();
      await write(pg, 100_000, 'both');
      await received(await flushed(pg));
      await first.stop();
      let before = Buffer.alloc(0);
      let lost = 0n;
      let name = '';
      await rollBack(pg, async () => {
        const second = await home.startStreaming();
        await write(pg, 1_000_000, 'lost');
        lost = await flushed(pg);
        await received(lost);
        await second.stop();
        name = await partialOf(pg);
        before = await readFile(join(home.streaming, name));
      });
      await write(pg, 2_000_000, 'else');
      expect(await flushed(pg)).toBeGreaterThan(lost);

      const third = home.start();
      const { cause } = await home.reaches('blocked', third);
      expect(cause).toMatchObject({ failure: 'timeline-diverged', hint: expect.stringContaining('--reset main') });
      await third.stop();
      const again = home.start();
      expect((await home.reaches('blocked', again)).cause).toMatchObject({ failure: 'timeline-diverged' });
      await again.stop();

      const told = await home.cli(['receive-wal', '--reset', 'main']);
      expect(told.status, told.stderr).toBe(0);
      const [moved = ''] = await readdir(home.home.errors);
      expect(moved).toMatch(new RegExp(`^${name}\\.\\d{8}T\\d{6}Z\\.reset$`));
      const content = await readFile(join(home.home.errors, moved));
      expect(content.length).toBeGreaterThanOrEqual(Number(lost % BigInt(pg.segmentSize)) - 8);
      expect(content.equals(before.subarray(0, content.length))).toBe(true);
      await home.startStreaming();
      await home.expectReceived(pg, await pg.writeSegments(2));
      expect(await readdir(home.home.errors)).toEqual([moved]);
      await until(
        'the copy to go',
        async () => (await readdir(join(home.home.home, 'main', '.receive-wal-kept'))).length === 0,
      );
    }));
});

test('a standby that lags behind inside the segment is not refused', () =>
  withPostgres({ segmentSizeMb: SEGMENT_MB }, (pg) =>
    withReceiver(pg, {}, async (receiver) => {
      const standby = await pg.standby();
      await standby.replayed(await flushed(pg));
      await standby.configure({ primary_conninfo: '', primary_slot_name: '' });
      await standby.stop();
      await standby.start();
      await write(pg, 500_000, 'more');
      await receiveAll(pg, receiver, await flushed(pg));
      const conninfo = standby.conninfo;
      await prepareToStream(
        receiver.with({
          postgres: {
            conninfo,
            streamingConninfo: conninfo,
            walConninfo: conninfo,
            walStreamingConninfo: conninfo,
            slotName: null,
          },
        }),
      );
    }),
  ));
