import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { withStreamingHome, type RunningReceiver, type StreamingHome } from '../e2e/running-receiver.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { killIfThere } from '../support/processes.ts';
import { withTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';

const LIMIT = { receive_wal_stall_timeout: '2 s' } as const;

async function childOf(receiver: RunningReceiver, except?: number): Promise<number> {
  return until('pg_receivewal to run', async () => {
    const child = await receiver.child();
    return child === except ? undefined : child;
  });
}

/** Waits until it streams again, with another pg_receivewal, and tells what is known of stalls. */
async function streamsAgain(home: StreamingHome, stalls: number): Promise<void> {
  await until(
    `stall ${stalls} to be over`,
    async () => {
      const report = await home.report();
      return report?.state === 'streaming' && report.stalls === stalls;
    },
    60_000,
  );
}

/** A role that may stream, and see nothing of what others do. */
async function poorConninfo(pg: TestPostgres): Promise<string> {
  await pg.sql('create role poor login replication');
  return pg.conninfo.replace('user=postgres', 'user=poor');
}

test('a pg_receivewal that is stopped while the server writes is killed and started again, and nothing is lost', () =>
  withStreamingHome({ server: LIMIT }, async (pg, home) => {
    const cases = {
      'the server tells its position': {},
      'only the file tells it': { conninfo: await poorConninfo(pg) },
      'without a slot': { slot_name: '', archiver: 'on' },
    };
    for (const [name, options] of Object.entries(cases)) {
      const receiver = await (await home.with(options)).startStreaming();
      const child = await childOf(receiver);
      await pg.writeSegments(1);
      killIfThere(child, 'SIGSTOP');
      const last = await pg.writeSegments(2);
      await streamsAgain(home, 1);
      expect(await childOf(receiver, child), name).not.toBe(child);
      await home.expectReceived(pg, last);
      const messages = await home.messages();
      expect(messages, name).toContainEqual(
        expect.stringMatching(
          /^pg_receivewal hangs: nothing was received for \d+ s.*, though the server has written up to 0\/[0-9A-F]+.*; it is started again$/,
        ),
      );
      expect(messages).toContain('pg_receivewal did not end when it was asked to, and was killed');
      // That was our own decision.
      expect(messages.filter((msg) => msg.includes('failure') || msg.includes('trying again'))).toEqual([]);
      const { stdout } = await home.cli(['-f', 'json', 'status', 'main']);
      expect(JSON.parse(stdout)[0].status.receive_wal_stalls).toEqual({ stalls: 1, last: expect.any(Number) });
      expect(await receiver.stop()).toEqual({ status: 0, signal: null });
      await rm(home.logFile);
    }
  }));

/** A home that streams through a proxy, and is told of the server directly. */
function withProxiedStream(
  options: Readonly<Record<string, string>>,
  settings: Readonly<Record<string, string>>,
  body: (pg: TestPostgres, home: StreamingHome, proxy: TcpProxy) => Promise<void>,
): Promise<void> {
  return withStreamingHome({ server: { ...LIMIT, ...options }, settings }, (pg, direct) =>
    withTcpProxy(join(pg.socketDir, `.s.PGSQL.${pg.port}`), async (proxy) => {
      const streaming_conninfo = `host=127.0.0.1 port=${proxy.port} user=postgres dbname=postgres`;
      await body(pg, await direct.with({ streaming_conninfo }), proxy);
    }),
  );
}

async function walsendersOf(pg: TestPostgres): Promise<string[]> {
  const rows = await pg.sql(`select pid from pg_stat_replication where application_name = 'barman_receive_wal'`);
  return rows.map(([pid]) => pid ?? '');
}

test('a connection that fell silent behind a proxy is replaced, and the walsender that does not notice is ended', () =>
  withProxiedStream({}, { wal_sender_timeout: '0' }, async (pg, home, proxy) => {
    const receiver = await home.startStreaming();
    await pg.writeSegments(1);
    const [before] = await walsendersOf(pg);
    proxy.silence();
    const last = await pg.writeSegments(2);
    await streamsAgain(home, 1);
    await home.expectReceived(pg, last);
    const messages = await home.messages();
    expect(messages).toContain(
      `process ${before} of the server still served the pg_receivewal that hung, and was ended`,
    );
    expect(messages.filter((msg) => msg.includes('trying again'))).toEqual([]);
    expect(await walsendersOf(pg)).not.toContain(before);
    await receiver.stop();

    await pg.sql('create role watcher login; grant pg_monitor to watcher');
    const poor = await home.with({ conninfo: pg.conninfo.replace('user=postgres', 'user=watcher') });
    await poor.startStreaming();
    const [left] = await walsendersOf(pg);
    proxy.silence();
    await pg.writeSegments(2);
    const serves = `process ${left} of the server still serves the pg_receivewal that hung, until wal_sender_timeout is over, and we may not end it: `;
    const told = await until('it to be said', async () => (await poor.log()).find(({ msg }) => msg.startsWith(serves)));
    expect(told.hint).toBe('GRANT pg_signal_backend TO the user of conninfo of [main]');
    await pg.sql(`select pg_terminate_backend(${left})`);
    await streamsAgain(poor, 1);
    await poor.expectReceived(pg, await pg.writeSegments(1));
  }));

test('an idle server is no stall', () =>
  withProxiedStream({}, {}, async (pg, home, proxy) => {
    const receiver = await home.startStreaming();
    const child = await childOf(receiver);
    await pg.writeSegments(1);
    // Each look is a connection, half a second at least after the one before: so it was idle for several timeouts.
    const looks = proxy.accepted + 14;
    await until('some looks', () => proxy.accepted >= looks, 60_000);
    expect(await home.report()).toMatchObject({ state: 'streaming', stalls: 0, restarts: 0 });
    expect(await childOf(receiver)).toBe(child);
  }));
