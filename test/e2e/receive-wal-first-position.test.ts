import { readdir } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { beginReceiving } from '../../src/receiver/first-position.ts';
import { prepareToStream } from '../../src/receiver/preflight.ts';
import { prepareSlot } from '../../src/receiver/slot.ts';
import { askStreamingServer, connectForStreaming } from '../../src/receiver/streaming-server.ts';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { parseWalName, segmentName, segmentNumber, type WalName } from '../../src/wal/wal-name.ts';
import { streamUntilFile, withReceiver, type TestReceiver } from '../receiver/with-receiver.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';

const MIB = 1024 * 1024;

/** A server that keeps `keep` of WAL that nobody asked for, and an empty streaming directory. */
function withBoth(keep: string, body: (pg: TestPostgres, receiver: TestReceiver) => Promise<void>): Promise<void> {
  return withPostgres({ settings: { min_wal_size: '2MB', max_wal_size: '2MB', wal_keep_size: keep } }, (pg) =>
    withReceiver(pg, {}, (receiver) => body(pg, receiver)),
  );
}

/** The segment so many behind another, and where it begins. */
function later(name: WalName, count: number): { readonly name: WalName; readonly lsn: string } {
  const parsed = parseWalName(name) ?? expect.unreachable();
  const number = segmentNumber(parsed, MIB) + BigInt(count);
  return { name: segmentName(parsed.timeline, number, MIB), lsn: formatLsn(number * BigInt(MIB)) };
}

const gaps = ({ logged }: TestReceiver): string[] => logged.filter(({ level }) => level >= 50).map(({ msg }) => msg);

describe('receiving into an empty directory', () => {
  test('does not begin where the server is while the position of the slot can not be found out', () =>
    withBoth('0', async (pg, { settings, streaming, with: vary }) => {
      await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
      const cases = [
        [`${pg.conninfo} user=nobody_at_all`, 'authentication', /walwarden" of main is, .*nobody_at_all/],
        [null, 'misconfigured', /can't find out where replication slot "walwarden" of main is/],
      ] as const;
      for (const [walConninfo, failure, message] of cases) {
        const asked = vary({ postgres: { walConninfo } });
        await using connection = await connectForStreaming(asked);
        const server = await askStreamingServer(connection, asked);
        // It is the replication connection that could tell since 15.
        const slot = await prepareSlot(asked, { ...connection, serverVersion: 140_000 });
        await expect(beginReceiving(asked, slot, server)).rejects.toMatchObject({
          failure,
          message: expect.stringMatching(message),
          hint: expect.stringContaining('conninfo'),
        });
      }
      expect(await readdir(streaming)).toEqual([]);
      await prepareToStream(settings);
      expect(await readdir(streaming)).toHaveLength(1);
    }));

  test('begins without a slot where the archive ends, while the server still has that', () =>
    withBoth('64MB', async (pg, receiver) => {
      const archived = await pg.writeSegments(1);
      const last = await pg.writeSegments(4);
      const settings = receiver.with({ postgres: { slotName: null }, newestArchived: async () => archived });
      await prepareToStream(settings);
      expect(await readdir(receiver.streaming)).toEqual([`${later(archived, 1).name}.partial`]);
      await streamUntilFile(settings, last);
      expect(await readdir(receiver.streaming)).toContain(later(archived, 1).name);
      expect(gaps(receiver)).toEqual([]);
    }));

  test('begins before the place of a slot that was made late, where the archive ends, and leaves the slot where it is', () =>
    withBoth('64MB', async (pg, receiver) => {
      const archived = await pg.writeSegments(1);
      await pg.writeSegments(4);
      await pg.sql('checkpoint');
      await pg.writeSegments(1);
      const settings = receiver.with({ newestArchived: async () => archived });
      const { withoutSlotUntil } = await prepareToStream(settings);
      const restart = parseLsn(await pg.value('select restart_lsn from pg_replication_slots'));
      expect(withoutSlotUntil).toBe(restart - (restart % BigInt(MIB)));
      expect(await readdir(receiver.streaming)).toEqual([`${later(archived, 1).name}.partial`]);
      expect(gaps(receiver)).toEqual([]);
    }));

  test('tells both ends of the gap where the server has removed what comes next', () =>
    withBoth('0', async (pg, receiver) => {
      const archived = await pg.writeSegments(1);
      await pg.writeSegments(4);
      await pg.sql('checkpoint');
      const settings = receiver.with({ postgres: { slotName: null }, newestArchived: async () => archived });
      await prepareToStream(settings);
      expect(await readdir(receiver.streaming)).toEqual([]);
      const [gap, ...more] = gaps(receiver);
      expect(gap).toContain(`the archive of main ends at ${later(archived, 1).lsn}, and receiving begins at`);
      expect(more).toEqual([]);
    }));

  test('tells nothing where the archive ends with the segment before the current one', () =>
    withBoth('0', async (pg, receiver) => {
      const archived = await pg.writeSegments(3);
      await prepareToStream(receiver.with({ postgres: { slotName: null }, newestArchived: async () => archived }));
      expect(await readdir(receiver.streaming)).toEqual([]);
      expect(gaps(receiver)).toEqual([]);
    }));

  test('tells what a new slot came too late for', () =>
    withBoth('0', async (pg, receiver) => {
      const archived = await pg.writeSegments(1);
      await pg.writeSegments(4);
      await pg.sql('checkpoint');
      const settings = receiver.with({ newestArchived: async () => archived });
      await prepareToStream(settings);
      const restart = await pg.value('select restart_lsn from pg_replication_slots');
      expect(gaps(receiver)).toEqual([
        expect.stringContaining(`stands at ${restart}, and WAL was received up to ${later(archived, 1).lsn} only`),
      ]);
      // Once.
      await prepareToStream(settings);
      expect(gaps(receiver)).toHaveLength(1);
    }));
});
