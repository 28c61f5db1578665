import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import { killIfThere } from '../support/processes.ts';
import { withStreamingHome, type StreamingHome } from './running-receiver.ts';

/** The waits that the log tells, in their order. */
async function waits(home: StreamingHome): Promise<string[]> {
  const told = (await home.log()).map(({ msg }) => /; trying again in (.*)$/.exec(msg)?.[1]);
  return told.filter((wait) => wait !== undefined);
}

/** Waits until so many tries more have failed. */
async function failsOften(home: StreamingHome, tries: number): Promise<void> {
  const before = (await waits(home)).length;
  await until(`${tries} failures`, async () => (await waits(home)).length >= before + tries, 60_000);
}

test('a synchronous primary that is restarted, again and again, waits no longer than a second for the next try', () =>
  withStreamingHome({ settings: { synchronous_standby_names: 'barman_receive_wal' } }, async (pg, home) => {
    // Repetitions are logged for those who debug.
    let receiver = await home.startStreaming('-d');
    await pg.sql('create table t (i int)');
    for (let round = 1; round <= 2; round += 1) {
      await pg.stop('fast');
      await failsOften(home, 4);
      await pg.start();
      // It returns once its WAL is on our disk, and not before.
      await pg.sql(`insert into t values (${round})`);
    }
    // A receive-wal that begins while the server is away has to remember what it is.
    await pg.stop('fast');
    await home.reaches('waiting', receiver);
    await receiver.stop('SIGKILL');
    const child = await receiver.child();
    if (child !== undefined) killIfThere(child, 'SIGKILL');
    receiver = home.start('-d');
    await home.reaches('waiting', receiver);
    expect(await home.report()).toMatchObject({ synchronous: true });
    await failsOften(home, 4);
    await pg.start();
    await pg.sql('insert into t values (3)');
    expect(await pg.sql('select i from t order by i')).toEqual([['1'], ['2'], ['3']]);

    const all = await waits(home);
    expect(all.length).toBeGreaterThanOrEqual(13);
    expect(new Set(all)).toEqual(new Set(['1 s']));
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
  }));
