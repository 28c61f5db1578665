import { execFile } from 'node:child_process';
import { mkdir, open, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ServerGauges } from '../../src/daemon/server-gauges.ts';
import { writeReceiverReport, type ReceiverReport } from '../../src/receiver/receiver-report.ts';
import { makeWal, writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { withSilentPort } from '../support/silent-port.ts';
import { IDLE, inServer, promtoolCheck, RECEIVING, withView, type TestView } from './metrics-view.ts';

const incoming = (test: TestView, server = 'main'): string => inServer(test, server, 'incoming');
const SEGMENT = 1024 * 1024;

describe('what is counted', () => {
  it('of an archive pass: files, bytes in and out, the last WAL, and how long the steps took', () =>
    withView({ servers: { main: { compression: 'gzip', archiver_workers: 0 } } }, async (test) => {
      const { name } = await writeWal(incoming(test), { segment: 1 });
      const last = await writeWal(incoming(test), { segment: 2 });
      expect((await test.series()).of('archived_files_total', { archiver: 'file' })).toBe(0);
      const before = Date.now() / 1000;
      await test.archive('main');
      const found = await test.series();
      expect(found.of('archived_files_total', { archiver: 'file' })).toBe(2);
      expect(found.of('arrived_bytes_total', { archiver: 'file' })).toBe(2 * SEGMENT);
      const stored = found.of('stored_bytes_total', { archiver: 'file' });
      expect(stored).toBeGreaterThan(0);
      expect(stored).toBeLessThan(2 * SEGMENT);
      expect(found.of('catalogue_stored_bytes')).toBe(stored);
      expect(found.of('catalogue_files')).toBe(2);
      expect([...found.named('walwarden_last_archived_wal_info').keys()]).toEqual([
        `walwarden_last_archived_wal_info{server="main",wal="${last.name}"}`,
      ]);
      expect(found.of('last_archived_wal_info', { wal: name })).toBeUndefined();
      expect(found.of('last_archived_timestamp_seconds')).toBeGreaterThanOrEqual(before);
      expect(found.of('stage_duration_seconds_count')).toBe(2);
      expect(found.of('commit_duration_seconds_count')).toBe(1);
      expect(found.of('stage_duration_seconds_bucket', { le: '+Inf' })).toBe(2);
    }));

  it('by outcome, what was not archived', () =>
    withView({}, async (test) => {
      await writeWal(incoming(test), { segment: 1 });
      await test.archive('main');
      await writeWal(incoming(test), { segment: 1 });
      await test.archive('main');
      await writeWal(incoming(test), { segment: 1, seed: 7 });
      await writeWal(incoming(test), { segment: 2, systemIdentifier: 12n });
      await test.archive('main');
      const found = await test.series();
      expect(found.of('duplicate_files_total', { archiver: 'file' })).toBe(1);
      expect(found.of('unarchived_files_total', { archiver: 'file', outcome: 'conflict' })).toBe(1);
      expect(found.of('unarchived_files_total', { archiver: 'file', outcome: 'invalid' })).toBe(1);
      expect(found.of('unarchived_files_total', { archiver: 'file', outcome: 'failed' })).toBe(0);
      expect(found.of('errors_files', { kind: 'duplicate' })).toBe(1);
      expect(found.of('errors_files', { kind: 'unknown' })).toBe(1);
      expect(found.of('errors_files', { kind: 'reset' })).toBe(0);
    }));

  it('failed passes by cause, restarts of the receiver, and requests', () =>
    withView({}, async (test) => {
      const { metrics } = test;
      metrics.passFailed('main', 'storage');
      metrics.passFailed('main', 'storage');
      metrics.passFailed('main', 'hook');
      metrics.receiverRestarted('main');
      metrics.request('main', 'put', 201, SEGMENT, 0.2);
      metrics.request('main', 'get', 404, 0, 0.001);
      const found = await test.series();
      expect(found.of('pass_failures_total', { code: 'storage' })).toBe(2);
      expect(found.of('pass_failures_total', { code: 'hook' })).toBe(1);
      expect(found.of('receiver_restarts_total')).toBe(1);
      expect(found.of('http_requests_total', { operation: 'put', status: '201' })).toBe(1);
      expect(found.of('http_wal_bytes_total', { operation: 'put' })).toBe(SEGMENT);
      expect(found.of('http_request_duration_seconds_count', { operation: 'get' })).toBe(1);
      expect(found.of('http_request_duration_seconds_bucket', { operation: 'put', le: '0.25' })).toBe(1);
    }));

  it('whether the last reload was taken, which version runs, and the process', () =>
    withView({}, async (test) => {
      const { metrics } = test;
      expect((await test.series()).global('walwarden_config_last_reload_successful')).toBe(1);
      metrics.reloaded(false);
      const found = await test.series();
      expect(found.global('walwarden_config_last_reload_successful')).toBe(0);
      expect(found.named('walwarden_build_info').size).toBe(1);
      expect(found.global('process_resident_memory_bytes')).toBeGreaterThan(0);
    }));
});

describe('what is looked up', () => {
  it('the files that wait, and the age of the first', () =>
    withView({}, async (test) => {
      expect((await test.series()).of('oldest_waiting_file_age_seconds', { directory: 'incoming' })).toBe(0);
      const { path } = await writeWal(incoming(test), { segment: 1 });
      await writeWal(incoming(test), { segment: 2 });
      const handle = await open(path);
      const { ctimeMs } = await handle.stat();
      await handle.close();
      const found = await test.series();
      expect(found.of('waiting_files', { directory: 'incoming' })).toBe(2);
      const age = found.of('oldest_waiting_file_age_seconds', { directory: 'incoming' }) ?? Number.NaN;
      expect(age).toBeGreaterThanOrEqual(0);
      expect(age).toBeLessThanOrEqual((Date.now() - ctimeMs) / 1000);
    }));

  it('the segments that are missing, by timeline', () =>
    withView({}, async (test) => {
      for (const segment of [1, 2, 5, 6, 9]) await writeWal(incoming(test), { segment });
      await writeWal(incoming(test), { segment: 9, timeline: 2 });
      await test.archive('main');
      const found = await test.series();
      expect(found.of('missing_segments', { timeline: '1' })).toBe(4);
      expect(found.of('missing_segments', { timeline: '2' })).toBe(0);
      await writeWal(incoming(test), { segment: 3 });
      await test.archive('main');
      expect((await test.series()).of('missing_segments', { timeline: '1' })).toBe(3);
    }));

  it('as missing, a segment whose stored file was empty when the archive was listed', () =>
    withView({}, async (test) => {
      for (const segment of [1, 2, 3]) await writeWal(incoming(test), { segment });
      await test.archive('main');
      expect((await test.series()).of('missing_segments', { timeline: '1' })).toBe(0);
      const { name, bytes } = makeWal({ segment: 2 });
      const stored = join(inServer(test, 'main', 'wals'), name.slice(0, 16), name);
      await truncate(stored, 0);
      await test.list('main');
      expect((await test.series()).of('missing_segments', { timeline: '1' })).toBe(1);
      await writeFile(stored, bytes);
      expect((await test.series()).of('missing_segments', { timeline: '1' })).toBe(0);
    }));

  it('the catalogue no more often than allowed', () =>
    withView(
      {},
      async (test) => {
        await writeWal(incoming(test), { segment: 1 });
        await test.archive('main');
        expect((await test.series()).of('catalogue_files')).toBe(1);
        await writeWal(incoming(test), { segment: 2 });
        await test.archive('main');
        const found = await test.series();
        expect(found.of('catalogue_files')).toBe(1);
        expect(found.of('archived_files_total', { archiver: 'file' })).toBe(2);
      },
      { catalogueMs: 3_600_000 },
    ));

  it('of a daemon that has archived nothing yet, the newest segment of the catalogue', () =>
    withView({}, async (test) => {
      const { name } = await writeWal(incoming(test), { segment: 3, mtime: 1_600_000_000 });
      await writeWal(incoming(test), { segment: 4, mtime: 1_500_000_000 });
      await test.archive('main');
      test.metrics.forget('main');
      const found = await test.series();
      expect(found.of('last_archived_wal_info', { wal: name })).toBe(1);
      expect(found.of('last_archived_timestamp_seconds')).toBe(1_600_000_000);
    }));

  it('the state of archiving', () =>
    withView({}, async (test) => {
      const healthy = await test.series();
      expect(healthy.of('archiving_failing')).toBe(0);
      expect(healthy.of('arrivals_watched')).toBe(1);
      expect(healthy.of('last_pass_timestamp_seconds')).toBe(1_700_000_000);
      test.show('main', { archiving: { ...IDLE, state: 'failing', failures: 7, watching: false, lastPass: null } });
      const found = await test.series();
      expect(found.of('archiving_failing')).toBe(1);
      expect(found.of('archiving_consecutive_failures')).toBe(7);
      expect(found.of('arrivals_watched')).toBe(0);
      expect(found.of('last_pass_timestamp_seconds')).toBeUndefined();
    }));

  it('which servers are archived, and which are not', () =>
    withView(
      {
        servers: {
          main: {},
          idle: { active: 'off' },
          copy: { primary_ssh_command: 'ssh barman@elsewhere' },
          broken: { archiver_batch_size: 'many' },
        },
      },
      async (test) => {
        const found = await test.series();
        for (const [server, state] of Object.entries({
          main: 'active',
          idle: 'inactive',
          copy: 'passive',
          broken: 'disabled',
        })) {
          expect(found.of('server_state', { server, state }), server).toBe(1);
          const sum = ['active', 'inactive', 'passive', 'disabled'].map((each) =>
            found.of('server_state', { server, state: each }),
          );
          expect(sum.filter((value) => value === 1)).toHaveLength(1);
        }
        expect(found.of('archiving_failing', { server: 'idle' })).toBeUndefined();
        expect(found.of('scrape_errors', { server: 'broken', what: 'incoming' })).toBeUndefined();
      },
    ));

  it('the room on the disks', () =>
    withView({}, async (test) => {
      const found = await test.series();
      const size = found.of('disk_size_bytes', { directory: 'archive' });
      expect(size).toBeGreaterThan(0);
      expect(found.of('disk_free_bytes', { directory: 'incoming' })).toBeLessThanOrEqual(size ?? 0);
    }));
});

const REPORT: ReceiverReport = {
  pid: process.pid,
  state: 'streaming',
  since: 1_700_000_000_000,
  startedAt: 1_700_000_000_000,
  lastStreamed: 1_700_000_050_000,
  restarts: 3,
  stalls: 1,
  lastStall: 1_699_999_000_000,
  cause: null,
  retryAt: null,
  slotName: null,
  withoutSlotUntil: null,
  synchronous: null,
  program: null,
};

const STREAMED = {
  main: { archiver: 'off', streaming_archiver: 'on', slot_name: 'w', conninfo: 'host=/nowhere user=x dbname=x' },
};

describe('the receiver', () => {
  const reportPath = (test: TestView): string => inServer(test, 'main', '.receive-wal.json');
  const stateIn = async (test: TestView): Promise<string[]> =>
    [...(await test.series()).named('walwarden_receiver_state')]
      .filter(([, value]) => value === 1)
      .map(([key]) => /state="([^"]*)"/.exec(key)?.[1] ?? '');

  const dead = 2 ** 22 + 1;
  it.each([
    ['what its process reports', RECEIVING, REPORT, 'streaming'],
    ['a process that has not reported yet', RECEIVING, { ...REPORT, pid: dead }, 'preparing'],
    ['one that could not be started', { ...RECEIVING, state: 'waiting', pid: null } as const, REPORT, 'stopped'],
    ['one of another program', { ...RECEIVING, state: 'elsewhere', pid: null } as const, REPORT, 'streaming'],
    [
      'one of another program that tells nothing',
      { ...RECEIVING, state: 'elsewhere', pid: null } as const,
      { ...REPORT, pid: dead },
      'unknown',
    ],
    ['its trouble', RECEIVING, { ...REPORT, state: 'blocked' } as const, 'blocked'],
  ] as const)('shows %s', (_what, receiving, report, state) =>
    withView({ servers: STREAMED }, async (test) => {
      await writeReceiverReport(reportPath(test), report);
      test.show('main', { receiving });
      expect(await stateIn(test)).toEqual([state]);
      const found = await test.series();
      expect(found.of('receiver_last_streamed_timestamp_seconds')).toBe(1_700_000_050);
      expect(found.of('receiver_pg_receivewal_restarts')).toBe(3);
      expect(found.of('receiver_stalls')).toBe(1);
    }),
  );

  it('is not shown for a server that is not streamed', () =>
    withView({}, async (test) => expect(await stateIn(test)).toEqual([])));

  it('shows a PostgreSQL that is silent as down, within the limit', () =>
    withSilentPort(async (port) =>
      withView(
        { servers: { main: { ...STREAMED.main, conninfo: `host=127.0.0.1 port=${port} user=x dbname=x` } } },
        async (test) => {
          const found = await test.series();
          expect(found.of('postgres_up')).toBe(0);
          expect(found.of('receiver_lag_bytes')).toBeUndefined();
          // Everything else is there.
          expect(found.of('waiting_files', { directory: 'streaming' })).toBe(0);
        },
        { lookMs: 200 },
      ),
    ));
});

describe('who may see what', () => {
  it('shows only the servers that were asked for, and what is nobody’s', () =>
    withView({ servers: { main: {}, other: {} } }, async (test) => {
      test.metrics.passFailed('main', 'hook');
      test.metrics.passFailed('other', 'hook');
      expect((await test.series()).servers).toEqual(new Set(['main', 'other']));
      const found = await test.series(['other']);
      expect(found.servers).toEqual(new Set(['other']));
      expect(found.text).not.toContain('main');
      expect((await test.series([])).servers).toEqual(new Set());
      expect((await test.series([])).global('process_start_time_seconds')).toBeGreaterThan(0);
    }));

  it('shows nothing more of a server that was forgotten, or is configured no more', () =>
    withView({ servers: { main: {}, other: {} } }, async (test) => {
      test.metrics.passFailed('main', 'hook');
      test.metrics.forget('main');
      expect((await test.series()).of('pass_failures_total', { code: 'hook' })).toBeUndefined();
      test.metrics.passFailed('main', 'hook');
      test.remove('main');
      expect((await test.series(['main', 'other'])).servers).toEqual(new Set(['other']));
    }));

  it('is what Prometheus reads, whatever a label holds', () =>
    withView({ servers: { main: STREAMED.main, other: {} } }, async (test) => {
      await writeWal(incoming(test, 'other'), { segment: 1 });
      await test.archive('other');
      test.metrics.request('other', 'get', 200, 1, 0.1);
      const { text } = await test.series();
      expect(await promtoolCheck(text)).toBe('');
      const odd = new ServerGauges();
      const [server] = test.view.servers.values();
      if (server === undefined) throw new Error('no server');
      odd.show({ ...server, name: 'a "b" \\ c\n' }, { failed: new Set() }, null);
      const escaped = await odd.registry.metrics();
      expect(escaped).toContain(String.raw`server="a \"b\" \\ c\n"`);
      expect(await promtoolCheck(escaped)).toBe('');
    }));
});

describe('what can’t be looked at', () => {
  it('is left out, and named', () =>
    withView({}, async (test) => {
      await rm(inServer(test, 'main', 'errors'), { recursive: true });
      await writeFile(inServer(test, 'main', 'errors'), 'no directory');
      const found = await test.series();
      expect(found.of('scrape_errors', { what: 'errors' })).toBe(1);
      expect(found.of('scrape_errors', { what: 'incoming' })).toBe(0);
      expect(found.named('walwarden_errors_files').size).toBe(0);
      expect(found.of('waiting_files', { directory: 'incoming' })).toBe(0);
      expect(found.of('disk_free_bytes', { directory: 'archive' })).toBeGreaterThan(0);
    }));

  it('because it hangs delays nobody for longer than the limit, and holds one thread only', () =>
    withView(
      { servers: { main: STREAMED.main, other: {} } },
      async (test) => {
        // A reader of a fifo waits until somebody writes, as one of a dead NFS does for its server.
        const fifo = inServer(test, 'main', '.receive-wal.json');
        await promisify(execFile)('mkfifo', [fifo]);
        try {
          const first = await test.series();
          expect(first.of('scrape_errors', { what: 'receiver' })).toBe(1);
          expect(first.of('scrape_errors', { what: 'disks' })).toBe(1);
          expect(first.of('scrape_errors', { what: 'catalogue' })).toBe(0);
          expect(first.of('waiting_files', { directory: 'streaming' })).toBe(0);
          expect(first.named('walwarden_receiver_state').size).toBe(0);
          expect(first.of('scrape_errors', { server: 'other', what: 'disks' })).toBe(0);
          // More of them than there are threads: one more look a scrape, and everything would stand still.
          for (let scrape = 0; scrape < 12; scrape += 1) await test.series();
          const hung = await until('what was found long ago to be left out', async () => {
            const found = await test.series();
            return found.of('scrape_errors', { what: 'incoming' }) === 1 && found;
          });
          expect(hung.of('waiting_files', { directory: 'streaming' })).toBeUndefined();
          expect(hung.of('waiting_files', { server: 'other', directory: 'incoming' })).toBe(0);
        } finally {
          await (await open(fifo, 'w')).close();
          await rm(fifo);
        }
        await until('it to be looked at again', async () => {
          const found = await test.series();
          return found.of('scrape_errors', { what: 'receiver' }) === 0;
        });
      },
      { lookMs: 100, catalogueMs: 0 },
    ));

  it('of all of a server does not hide what was counted', () =>
    withView({}, async (test) => {
      await writeWal(incoming(test), { segment: 1 });
      await test.archive('main');
      await rm(inServer(test, 'main', 'wals'), { recursive: true });
      await mkdir(inServer(test, 'main', 'wals'));
      await writeFile(inServer(test, 'main', 'wals/main-xlog.db'), `${makeWal().name}\n`);
      const found = await test.series();
      expect(found.of('catalogue_damaged_lines')).toBe(1);
      expect(found.of('archived_files_total', { archiver: 'file' })).toBe(1);
    }));
});
