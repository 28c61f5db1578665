import { describe, expect, test } from 'vitest';
import { causeOfEnd, causePasses, readOutputLine } from '../../src/receiver/receiver-output.ts';
import type { ReceiverEnd } from '../../src/receiver/receiver-process.ts';
import type { ReceiverCause } from '../../src/receiver/receiver-report.ts';

describe('a line', () => {
  // Words of PostgreSQL 15, and of 10 where they differ.
  test.each([
    ['pg_receivewal: starting log streaming at 0/1000000 (timeline 1)', 'info'],
    ['/usr/lib/postgresql/15/bin/pg_receivewal: starting log streaming at 0/1000000 (timeline 1)', 'info'],
    ['pg_receivewal: switched to timeline 2 at 0/3000000', 'info'],
    ['pg_receivewal: stopped log streaming at 0/3000000 (timeline 2)', 'info'],
    ['pg_receivewal: received interrupt signal, exiting', 'info'],
    ['pg_receivewal: finished segment at 0/2000000 (timeline 1)', 'debug'],
    ['pg_receivewal: not renaming "000000010000000000000003.partial", segment is not complete', 'debug'],
    ['pg_receivewal: warning: not renaming "000000010000000000000003.partial", segment is not complete', 'debug'],
    ['Warning: No existing cluster is suitable as a default target. Please see man pg_wrapper(1)', 'debug'],
    ['', 'debug'],
    ['pg_receivewal: warning: segment file "000000010000000000000003" has incorrect size 5, skipping', 'warn'],
    ['pg_receivewal: segment file "000000010000000000000003" has incorrect size 5, skipping', 'warn'],
  ])('%j is no reason to end', (line, level) => {
    expect(readOutputLine(line)).toMatchObject({ level, trouble: false });
  });

  test.each([
    ['pg_receivewal: error: disconnected', 'warn'],
    ['pg_receivewal: disconnected', 'warn'],
    ['pg_receivewal: error: replication stream was terminated before stop point', 'warn'],
    ['pg_receivewal: error: could not receive data from WAL stream: server closed the connection unexpectedly', 'warn'],
    ['\tThis probably means the server terminated abnormally', 'warn'],
    [
      'pg_receivewal: error: connection to server at "db", port 5432 failed: FATAL:  password authentication failed for user "x"',
      'error',
    ],
    [
      'pg_receivewal: error: unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000001 has already been removed',
      'error',
    ],
    ['pg_receivewal: could not start replication: ERROR:  replication slot "walwarden" does not exist', 'error'],
    ['pg_receivewal: fatal: no pg_hba.conf entry for replication connection from host "[local]"', 'error'],
  ])('%j is trouble, to be seen', (line, level) => {
    expect(readOutputLine(line)).toMatchObject({ level, trouble: true, starts: false });
  });

  test('tells when the server is asked for WAL', () => {
    expect(readOutputLine('pg_receivewal: starting log streaming at 0/1000000 (timeline 1)').starts).toBe(true);
    expect(readOutputLine('pg_receivewal: finished segment at 0/1000000 (timeline 1)').starts).toBe(false);
  });

  test('is shown without the name of the program and its own idea of severity, and not without end', () => {
    expect(readOutputLine('pg_receivewal: error: disconnected').text).toBe('disconnected');
    expect(readOutputLine('pg_receivewal: disconnected').text).toBe('disconnected');
    expect(readOutputLine(`pg_receivewal: error: ${'x'.repeat(8_000)}`).text).toHaveLength(2_000);
  });
});

describe('the end of pg_receivewal', () => {
  const failed: ReceiverEnd = { how: 'exited', status: 1 };
  const context = { option: 'streaming_conninfo', server: 'main', slotName: 'walwarden' };
  const causeOf = (end: ReceiverEnd, ...troubles: string[]): ReceiverCause =>
    causeOfEnd(end, troubles, '/srv/streaming', context);

  test('by a signal is told with the signal', () => {
    expect(causeOf({ how: 'killed', signal: 'SIGKILL' }, 'disconnected')).toEqual({
      failure: 'killed',
      message: 'pg_receivewal was killed by SIGKILL',
      hint: expect.stringContaining('dmesg'),
    });
    expect(causeOf({ how: 'killed', signal: 'SIGTERM' })).toMatchObject({ failure: 'killed', hint: null });
    expect(causeOf({ how: 'exited', status: 0 })).toMatchObject({ failure: 'killed' });
  });

  test('is explained by what came first, not by what it says at the end of everything', () => {
    expect(
      causeOf(
        failed,
        'unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000001 has already been removed',
        'disconnected',
      ),
    ).toEqual({
      failure: 'wal-removed',
      message:
        'pg_receivewal ended with exit status 1: unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000001 has already been removed',
      hint: expect.stringContaining('receive-wal --reset main'),
    });
    expect(causeOf(failed, 'replication stream was terminated before stop point', 'disconnected')).toMatchObject({
      failure: 'starting-up',
      message:
        'pg_receivewal ended with exit status 1: the server shut down (replication stream was terminated before stop point)',
      hint: expect.stringContaining('wait until it runs again'),
    });
    expect(causeOf(failed, 'disconnected').message).toBe('pg_receivewal ended with exit status 1: disconnected');
    expect(causeOf({ how: 'exited', status: 127 }).message).toBe(
      'pg_receivewal ended with exit status 127 and said nothing',
    );
  });

  test('is explained with the detail that tells which of several causes it was', () => {
    const lost = (reason: string): ReceiverCause =>
      causeOf(
        failed,
        'could not send replication command "START_REPLICATION": ERROR:  can no longer access replication slot "idle"',
        `DETAIL:  This replication slot has been invalidated due to "${reason}".`,
        'disconnected',
      );
    expect(lost('idle_timeout')).toMatchObject({
      failure: 'wal-removed',
      message: expect.stringContaining('invalidated due to "idle_timeout"'),
      hint: expect.stringContaining('idle_replication_slot_timeout'),
    });
    expect(lost('wal_removed').hint).toContain('max_slot_wal_keep_size');
  });

  test.each([
    [
      'could not write 16777216 bytes to WAL file "000000010000000000000003.partial": No space left on device',
      'low-disk',
    ],
    ['could not open write-ahead log file "000000010000000000000003.partial": Disk quota exceeded', 'low-disk'],
    ['could not open directory "/srv/streaming": No such file or directory', 'directory'],
    ['could not open directory "/srv/streaming": Permission denied', 'directory'],
    ['could not fsync file "000000010000000000000003.partial": Input/output error', 'directory'],
    ['could not create timeline history file "00000002.history": Read-only file system', 'directory'],
  ])('by %j is about our disk', (trouble, failure) => {
    const cause = causeOf(failed, trouble, 'disconnected');
    expect(cause.failure).toBe(failure);
    expect(cause.hint).toContain('/srv/streaming');
  });

  test.each([
    ['could not open certificate file "/root/.postgresql/postgresql.crt": Permission denied', 'tls'],
    ['connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory', 'unreachable'],
    [
      'could not send replication command "START_REPLICATION": ERROR:  replication slot "walwarden" is active for PID 7',
      'slot-active',
    ],
    ['starting timeline 3 is not present in the server', 'timeline-diverged'],
  ])('by %j is not', (trouble, failure) => {
    expect(causeOf(failed, trouble).failure).toBe(failure);
  });

  test('before its beginning names what is missing', () => {
    expect(causeOf({ how: 'not-started', why: 'no setpriv', missing: true })).toMatchObject({
      failure: 'program-missing',
      hint: 'install util-linux',
    });
    expect(causeOf({ how: 'not-started', why: 'EAGAIN', missing: false })).toMatchObject({ failure: 'other' });
  });
});

test.each([
  ['unreachable', true],
  ['slot-active', true],
  ['killed', true],
  ['low-disk', true],
  ['other', true],
  ['authentication', false],
  ['wal-removed', false],
  ['other-cluster', false],
  ['program-missing', false],
  ['directory', false],
] as const)('%s passes by itself: %s', (failure, passes) => {
  expect(causePasses({ failure, message: '', hint: null })).toBe(passes);
});
