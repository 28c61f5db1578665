import { readdir, readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import { liveProcesses } from '../support/processes.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { commandLine, withStreamingHome } from './running-receiver.ts';

test('WAL is received as the server writes it, and SIGTERM ends it in order', () =>
  withStreamingHome({}, async (pg, home) => {
    const receiver = await home.startStreaming();
    const last = await pg.writeSegments(5);
    const names = await home.expectReceived(pg, last);
    expect(names.length).toBeGreaterThanOrEqual(5);

    const rows = await pg.sql('select application_name, state, sync_state from pg_stat_replication');
    expect(rows).toEqual([['barman_receive_wal', 'streaming', 'async']]);
    expect(await pg.value('select active from pg_replication_slots')).toBe('t');
    expect(await home.report()).toMatchObject({
      pid: receiver.pid,
      state: 'streaming',
      restarts: 0,
      cause: null,
      retryAt: null,
      slotName: 'walwarden',
      synchronous: false,
      program: expect.stringMatching(/^\d+/),
    });

    expect(await receiver.stop('SIGTERM')).toEqual({ status: 0, signal: null });
    expect(await home.report()).toMatchObject({ state: 'stopped', lastStreamed: expect.any(Number), cause: null });
    expect(receiver.stderr).toBe('');
    const messages = await home.messages();
    expect(messages.slice(messages.findIndex((msg) => msg.startsWith('pg_receivewal: starting')))).toEqual([
      expect.stringMatching(/^pg_receivewal: starting log streaming at /),
      'receiving WAL of main',
      'receive-wal of main is asked to stop',
      'pg_receivewal: received interrupt signal, exiting',
      'receive-wal of main has stopped',
    ]);
  }));

test('a stop by SIGINT keeps what was received, and the next one goes on from there', () =>
  withStreamingHome({}, async (pg, home) => {
    const first = await home.startStreaming();
    await pg.writeSegments(2);
    expect(await first.stop('SIGINT')).toEqual({ status: 0, signal: null });
    const meanwhile = await pg.writeSegments(3);
    const { lastStreamed } = (await home.report()) ?? {};
    expect(lastStreamed).toEqual(expect.any(Number));
    const second = await home.startStreaming();
    await home.expectReceived(pg, meanwhile);
    expect(await second.stop()).toEqual({ status: 0, signal: null });
  }));

test('a second one fails, with Barman’s words for one that runs already, and the first goes on', () =>
  withStreamingHome({}, async (pg, home) => {
    const receiver = await home.startStreaming();
    const message = 'Another receive-wal process is already running for server main.';
    const hint = 'nothing is to be done; to end that one: walwarden receive-wal --stop main';
    const second = await home.cli(['receive-wal', 'main']);
    expect(second).toMatchObject({ status: 1, stdout: '', stderr: `ERROR: ${message}\nHINT: ${hint}\n` });
    const asJson = await home.cli(['-f', 'json', 'receive-wal', 'main']);
    expect(asJson).toMatchObject({ status: 1, stdout: '' });
    expect(JSON.parse(asJson.stderr)).toEqual({ error: { code: 'locked', message, hint } });
    expect(await home.report()).toMatchObject({ pid: receiver.pid, state: 'streaming' });
    await home.expectReceived(pg, await pg.switchWal());
  }));

test('--stop ends it, and says so when there is nothing to end', () =>
  withStreamingHome({}, async (_pg, home) => {
    const receiver = await home.startStreaming();
    const stop = await home.cli(['receive-wal', '--stop', 'main']);
    expect(stop).toMatchObject({ status: 0, stdout: `Stopped process receive-wal(${receiver.pid})\n` });
    expect(await receiver.ended).toEqual({ status: 0, signal: null });
    const again = await home.cli(['receive-wal', '--stop', 'main']);
    expect(again.status).toBe(1);
    expect(again.stderr).toContain('Termination of receive-wal failed: no such process for server main');
  }));

test('terminate-process SERVER receive-wal ends it, as Barman’s own does', () =>
  withStreamingHome({}, async (_pg, home) => {
    const receiver = await home.startStreaming();
    const stop = await home.cli(['terminate-process', 'main', 'receive-wal']);
    expect(stop).toMatchObject({ status: 0, stdout: `Stopped process receive-wal(${receiver.pid})\n` });
    expect(await receiver.ended).toEqual({ status: 0, signal: null });
    const again = await home.cli(['-f', 'json', 'terminate-process', 'main', 'receive-wal']);
    expect(again.status).toBe(1);
    expect(JSON.parse(again.stderr)).toMatchObject({
      error: { code: 'receiver', message: 'Termination of receive-wal failed: no such process for server main' },
    });
  }));

test('our application_name wins over the one in streaming_conninfo', () =>
  withStreamingHome({ server: { streaming_archiver_name: "it's ours" } }, async (pg, home) => {
    const conninfo = `${pg.conninfo} application_name='theirs'`;
    const other = await home.with({ streaming_archiver_name: "it's ours", streaming_conninfo: conninfo });
    await other.startStreaming();
    expect(await pg.sql('select application_name from pg_stat_replication')).toEqual([["it's ours"]]);
  }));

test('a synchronous standby that we are lets commits return', () =>
  withStreamingHome({ settings: { synchronous_standby_names: 'barman_receive_wal' } }, async (pg, home) => {
    const receiver = await home.startStreaming();
    expect(await home.report()).toMatchObject({ synchronous: true });
    await pg.sql('create table t (i int)');
    expect(await pg.sql('select sync_state from pg_stat_replication')).toEqual([['sync']]);
    const child = await receiver.child();
    expect(await commandLine(child ?? 0)).toContain('--synchronous');
  }));

test('a synchronous standby that we become later lets commits return, and one that we cease to be is none', () =>
  withStreamingHome({}, async (pg, home) => {
    const receiver = await home.startStreaming();
    expect(await home.report()).toMatchObject({ synchronous: false });
    const reports = (synchronous: boolean): Promise<boolean> =>
      until(
        `receive-wal to be ${synchronous ? '' : 'no longer '}synchronous`,
        async () => {
          const report = await home.report();
          return report?.state === 'streaming' && report.synchronous === synchronous;
        },
        60_000,
      );
    await pg.configure({ synchronous_standby_names: '"barman_receive_wal"' });
    await reports(true);
    await pg.sql('create table t (i int)');
    expect(await commandLine((await receiver.child()) ?? 0)).toContain('--synchronous');
    await pg.configure({ synchronous_standby_names: 'another' });
    await reports(false);
    expect(await commandLine((await receiver.child()) ?? 0)).not.toContain('--synchronous');
    // Both times that was what we wanted.
    const log = await home.log();
    expect(log.filter(({ state, msg }) => state === 'waiting' || msg.includes('failure'))).toEqual([]);
  }));

const PASSWORD = "s3cret pass'word\\";

test('the password is in no list of processes, no log and no report', () =>
  withStreamingHome({ tcp: true, hba: ['host replication streamer 127.0.0.1/32 scram-sha-256'] }, async (pg, home) => {
    const quoted = PASSWORD.replace(/[\\']/g, '\\$&');
    await pg.sql(`create role streamer login replication password '${PASSWORD.replace(/'/g, "''")}'`);
    // barman.conf has % for itself.
    const streaming_conninfo = `${pg.tcpConninfo} user=streamer password='${quoted}'`;
    const other = await home.with({ streaming_conninfo });
    const receiver = await other.startStreaming();
    await other.expectReceived(pg, await pg.switchWal());
    const child = (await receiver.child()) ?? 0;
    expect(await commandLine(child)).toContain('user=streamer');
    for (const { pid } of await liveProcesses()) {
      expect(await commandLine(pid)).not.toContain(PASSWORD.slice(0, 6));
    }
    await receiver.stop();

    // A wrong one is named for what it is, once, and not repeated.
    const wrong = await home.with({ streaming_conninfo: streaming_conninfo.replace('s3cret', 's3cret-wrong') });
    const blocked = wrong.start();
    const report = await wrong.reaches('blocked', blocked);
    expect(report.cause).toMatchObject({
      failure: 'authentication',
      hint: expect.stringContaining('streaming_conninfo'),
    });
    expect(await blocked.stop()).toEqual({ status: 0, signal: null });
    const text = (await readFile(home.logFile, 'utf8')) + JSON.stringify(report) + blocked.stderr + receiver.stderr;
    expect(text).not.toContain('s3cret');
  }));

test('while it waits for a server that is away it stops at once', () =>
  withStreamingHome({}, async (pg, home) => {
    await pg.stop();
    const receiver = home.start();
    expect((await home.reaches('waiting', receiver)).cause).toMatchObject({ failure: 'unreachable' });
    await until('later tries', async () => ((await home.report())?.retryAt ?? 0) > Date.now() + 2_500);
    expect(await receiver.stop()).toEqual({ status: 0, signal: null });
    // However often it tried.
    expect((await home.messages()).filter((msg) => msg.includes('trying again'))).toHaveLength(1);
    expect(await readdir(home.streaming)).toEqual([]);
  }));

test('while it waits for a server that does not answer it stops, too', () =>
  withStreamingHome({}, (_pg, home) =>
    withSilentPort(async (port) => {
      const silent = await home.with({ conninfo: `host=127.0.0.1 port=${port} user=streamer` });
      const receiver = silent.start();
      await silent.reaches('preparing', receiver);
      expect(await receiver.stop()).toEqual({ status: 0, signal: null });
      expect(await silent.report()).toMatchObject({ state: 'stopped', cause: null });
    }),
  ));
