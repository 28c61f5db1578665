import { join } from 'node:path';
import { expect, it } from 'vitest';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { Receivewal } from '../e2e/streamed-postgres.ts';
import { withView, type TestView } from './metrics-view.ts';

const lagOf = async (test: TestView): Promise<number | undefined> => (await test.series()).of('receiver_lag_bytes');

it('the lag of a receiver is what the server has and it has not, while it is away, too', () =>
  withPostgres({}, async (pg) => {
    await pg.sql(`select pg_create_physical_replication_slot('walwarden', true)`);
    const options = {
      archiver: 'off',
      streaming_archiver: 'on',
      slot_name: 'walwarden',
      conninfo: pg.conninfo,
    };
    await withView({ servers: { main: options } }, async (test) => {
      const before = (await lagOf(test)) ?? Number.NaN;
      await pg.writeSegments(3);
      const away = (await lagOf(test)) ?? Number.NaN;
      expect(away - before).toBeGreaterThan(2 * pg.segmentSize);

      const receiver = new Receivewal(pg, await pg.makeDirectory(join(pg.directory, 'received')));
      await receiver.start({ slot: 'walwarden' });
      try {
        await until('it to have received all', async () => (await lagOf(test)) === 0);
        expect((await test.series()).of('postgres_up')).toBe(1);
      } finally {
        await receiver.stop();
      }
      await pg.writeSegments(1);
      expect(await lagOf(test)).toBeGreaterThan(0);

      await pg.stop();
      const down = await test.series();
      expect(down.of('postgres_up')).toBe(0);
      expect(down.of('receiver_lag_bytes')).toBeUndefined();
    });
  }));
