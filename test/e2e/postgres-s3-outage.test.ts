import { copyFile, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { writeConfig } from '../support/cli.ts';
import { s3Answer, withFaultProxy, type Fault } from '../support/fault-proxy.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { describeS3 } from '../support/s3.ts';
import { withArchivedPostgres, type Archive } from './postgres-archive.ts';
import { expectOnlyInBucket, PATIENCE_MS, PUSH_WAL, rowsOf, s3Options, withGate, writeRow } from './s3-archive.ts';

/** Three segments with a row each, which are in the bucket only, and a base backup behind the first. */
async function prepare(pg: TestPostgres, archive: Archive): Promise<string> {
  await writeRow(pg, '1');
  const backup = await pg.baseBackup();
  for (const row of ['2', '3']) await writeRow(pg, row);
  await archive.pass();
  await expectOnlyInBucket(archive);
  return backup;
}

/** What PostgreSQL was told by restore_command, and what it made of it. */
async function expectStopped(pg: TestPostgres, attempt: Promise<TestPostgres>, reason: RegExp): Promise<void> {
  await expect(attempt).rejects.toThrow(/from archive: child process exited with exit code 200/);
  const restored = join(pg.directory, 'pg1');
  expect(await readFile(join(pg.directory, 'pg1.log'), 'utf8')).toMatch(reason);
  expect(await isThere(join(restored, 'recovery.signal'))).toBe(true);
  expect(await isThere(join(restored, 'pg_wal', '00000002.history'))).toBe(false);
}

const FAULTS: readonly { label: string; fault: Fault; reason: RegExp }[] = [
  { label: 'cuts the connection', fault: { kind: 'reset' }, reason: /ERROR: .*cut the connection/ },
  { label: 'answers 503', fault: s3Answer(503, 'ServiceUnavailable'), reason: /ERROR: .*503 ServiceUnavailable/ },
  {
    label: 'answers 403',
    fault: s3Answer(403, 'AccessDenied'),
    reason: /ERROR: .*403 AccessDenied[^]*HINT: .*s3:GetObject/,
  },
  { label: 'has lost its bucket', fault: s3Answer(404, 'NoSuchBucket'), reason: /ERROR: .*has no bucket/ },
];

describeS3(
  'recovery while the gateway is away',
  (s3) => {
    test('stops, rather than end early and promote; once the gateway is back it goes on to the end', () =>
      s3.withBucket((endpoint) =>
        withGate(endpoint.url, (gate) =>
          withArchivedPostgres({ server: s3Options(endpoint, gate.url) }, async (pg, archive) => {
            const backup = await prepare(pg, archive);
            await pg.stop();
            await gate.close();
            // Without hot_standby it answers only once recovery has ended: here, never.
            const options = { restoreCommand: archive.restoreCommand, settings: { hot_standby: 'off' } };
            await expectStopped(pg, pg.restore(backup, options), /ERROR: .*refuses connections/);

            await gate.open();
            const whole = await pg.restore(backup, options);
            await whole.writable(PATIENCE_MS);
            expect(await rowsOf(whole)).toEqual(['1', '2', '3']);
          }),
        ),
      ));

    test.each(FAULTS)('stops when in the middle of it the endpoint $label', ({ fault, reason }) =>
      s3.withBucket((endpoint) =>
        withFaultProxy(endpoint.url, (proxy) =>
          withArchivedPostgres({ server: s3Options(endpoint, proxy.url) }, async (pg, archive) => {
            const backup = await prepare(pg, archive);
            const damaged = await writeRow(pg, '4');
            await archive.pass();
            await pg.stop();
            proxy.fail(({ url }) => url.includes(damaged), fault, Infinity);
            const options = { restoreCommand: archive.restoreCommand, settings: { hot_standby: 'off' } };
            await expectStopped(pg, pg.restore(backup, options), reason);

            proxy.heal();
            const whole = await pg.restore(backup, options);
            await whole.writable(PATIENCE_MS);
            expect(await rowsOf(whole)).toEqual(['1', '2', '3', '4']);
          }),
        ),
      ),
    );

    test('keeps a standby on another machine waiting, which goes on by itself once the gateway is back', () =>
      s3.withBucket((endpoint) =>
        withGate(endpoint.url, (gate) =>
          withArchivedPostgres({ server: s3Options(endpoint) }, async (pg, archive) => {
            const backup = await prepare(pg, archive);
            // It has the bucket and a configuration, and no catalogue.
            const config = await writeConfig(await pg.makeDirectory(join(pg.directory, 'elsewhere')), {
              servers: { main: s3Options(endpoint, gate.url) },
            });
            const standby = await pg.restore(backup, {
              restoreCommand: archive.withConfig(config).restoreCommand,
              mode: 'standby',
              settings: { wal_retrieve_retry_interval: '100ms' },
            });
            await until('the standby to catch up', async () => (await rowsOf(standby)).length === 3, PATIENCE_MS);
            await gate.close();
            await writeRow(pg, '4');
            await archive.pass();
            const complaints = async (): Promise<number> =>
              (await readFile(standby.logFile, 'utf8')).split('refuses connections').length - 1;
            await until('the standby to ask in vain, twice', async () => (await complaints()) >= 2, PATIENCE_MS);
            expect(standby.running).toBe(true);
            expect(await standby.value('select pg_is_in_recovery()')).toBe('t');
            expect(await rowsOf(standby)).toEqual(['1', '2', '3']);

            await gate.open();
            await until('the standby to catch up', async () => (await rowsOf(standby)).length === 4, PATIENCE_MS);
            expect(await standby.value('select pg_is_in_recovery()')).toBe('t');
          }),
        ),
      ));

    test('put-wal and cp go on into incoming, which archive-wal empties when the bucket is back', () =>
      s3.withBucket((endpoint) =>
        withGate(endpoint.url, (gate) =>
          withArchivedPostgres({ server: s3Options(endpoint, gate.url) }, async (pg, archive) => {
            await writeRow(pg, '1');
            await archive.pass();
            await gate.close();
            const copied = await writeRow(pg, '2');
            expect(await readdir(archive.incoming)).toContain(copied);
            const pushWal = join(pg.directory, 'push-wal');
            await copyFile(PUSH_WAL, pushWal);
            await pg.configure({ archive_command: `${pushWal} %p ${archive.command('put-wal', 'main')}` });
            const delivered = await writeRow(pg, '3');
            expect(await readdir(archive.incoming)).toContain(delivered);
            const { status } = await archive.walwarden(['archive-wal', 'main']);
            expect(status).toBe(1);
            expect(await readdir(archive.incoming)).toEqual(expect.arrayContaining([copied, delivered]));

            await gate.open();
            await archive.pass();
            expect(await archive.timelines()).toMatchObject([{ ranges: [{ last: delivered }], gaps: [] }]);
            await expectOnlyInBucket(archive);
          }),
        ),
      ));
  },
  ['rgw'],
);
