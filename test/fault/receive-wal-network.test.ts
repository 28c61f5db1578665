import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { withStreamingHome, type StreamingHome } from '../e2e/running-receiver.ts';
import { until } from '../support/poll.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { withTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';

function socketOf(pg: TestPostgres): string {
  return join(pg.socketDir, `.s.PGSQL.${pg.port}`);
}

/** A home that reaches its server through a proxy. */
function withProxiedHome<T>(body: (pg: TestPostgres, home: StreamingHome, proxy: TcpProxy) => Promise<T>): Promise<T> {
  return withStreamingHome({}, (pg, direct) =>
    withTcpProxy(socketOf(pg), async (proxy) => {
      const conninfo = `host=127.0.0.1 port=${proxy.port} user=postgres dbname=postgres`;
      return body(pg, await direct.with({ conninfo }), proxy);
    }),
  );
}

async function keepWriting(pg: TestPostgres, end: AbortSignal): Promise<void> {
  while (!end.aborted) await pg.writeSegments(2);
}

test('cuts of the network under load: streaming goes on each time, and nothing is lost', () =>
  withProxiedHome(async (pg, home, proxy) => {
    const receiver = await home.startStreaming();
    const load = new AbortController();
    const loaded = keepWriting(pg, load.signal);
    try {
      for (let round = 1; round <= 3; round++) {
        proxy.cut();
        const { cause } = await home.reaches('waiting', receiver);
        expect(['unreachable', 'starting-up', 'slot-active', 'other']).toContain(cause?.failure);
        proxy.mend();
        await home.reaches('streaming', receiver);
      }
    } finally {
      load.abort();
      await loaded;
    }
    await home.expectReceived(pg, await pg.writeSegments(2));
    expect((await home.report())?.restarts).toBeGreaterThanOrEqual(3);
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
  }));

test('another cluster behind the same address is noticed before it sends anything', () =>
  withProxiedHome(async (pg, home, proxy) => {
    const receiver = await home.startStreaming();
    await home.expectReceived(pg, await pg.writeSegments(2));
    await withPostgres({}, async (other) => {
      await other.writeSegments(2);
      proxy.target = socketOf(other);
      proxy.drop();
      const { cause } = await home.reaches('blocked', receiver);
      expect(cause).toMatchObject({ failure: 'other-cluster' });
      expect(cause?.message).toContain(String(await other.systemIdentifier()));
      expect(await other.sql('select * from pg_replication_slots')).toEqual([]);
    });
    const received = await readdir(home.streaming);
    proxy.target = socketOf(pg);
    await home.reaches('streaming', receiver);
    const names = await home.expectReceived(pg, await pg.writeSegments(2));
    expect(names).toEqual(expect.arrayContaining(received.filter((name) => !name.endsWith('.partial'))));
  }));

test('a connection that breaks while pg_receivewal starts is tried again', () =>
  withProxiedHome(async (pg, home, proxy) => {
    const receiver = home.start();
    for (let round = 0; round < 3; round++) {
      await until('a connection', async () => {
        const rows = await pg.sql(`select 1 from pg_stat_replication`);
        return rows.length > 0;
      });
      proxy.drop();
    }
    await home.reaches('streaming', receiver);
    await home.expectReceived(pg, await pg.writeSegments(2));
  }));
