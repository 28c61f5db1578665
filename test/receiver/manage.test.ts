import { spawn, type ChildProcess } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { acquireLock, lockOwner } from '../../src/durable/lock-file.ts';
import { createSlot, dropSlot, resetReceiver, stopReceiver } from '../../src/receiver/manage.ts';
import { writeWal } from '../support/make-wal.ts';
import { until } from '../support/poll.ts';
import { withPostgres } from '../support/postgres.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { streamUntil, withReceiver } from './with-receiver.ts';

/** Holds the lock as a Barman's receive-wal does, in another process; `pid` is what it writes there. */
async function withHolder<T>(
  { pid = '$$', onSigint = 'exit 0' },
  body: (lock: { readonly server: string; readonly lockPath: string }, holder: ChildProcess) => Promise<T>,
): Promise<T> {
  return withTempDir(async (directory) => {
    const lockPath = join(directory, '.main-receive-wal.lock');
    const script = `exec 9>>"$0"; flock 9; echo ${pid} > "$0"; trap '${onSigint}' INT; while :; do sleep 0.05 9>&-; done`;
    const holder = spawn('bash', ['-c', script, lockPath], { stdio: 'ignore' });
    const ended = new Promise((resolve) => holder.once('close', resolve));
    try {
      await until('the lock to be held', async () => (await lockOwner(lockPath)) !== null);
      return await body({ server: 'main', lockPath }, holder);
    } finally {
      holder.kill('SIGKILL');
      await ended;
    }
  });
}

describe('stopReceiver', () => {
  test('ends the process that holds the lock, and returns when the lock is free', () =>
    withHolder({}, async (settings, holder) => {
      expect(await stopReceiver(settings)).toBe(`Stopped process receive-wal(${holder.pid})`);
      expect(await lockOwner(settings.lockPath)).toBeNull();
    }));

  test('says in Barman’s words that nothing runs', () =>
    withTempDir(async (directory) => {
      const settings = { server: 'main', lockPath: join(directory, '.main-receive-wal.lock') };
      const nothing = {
        code: 'receiver',
        message: 'Termination of receive-wal failed: no such process for server main',
      };
      await expect(stopReceiver(settings)).rejects.toMatchObject(nothing);
      // What one that has ended left behind.
      await writeFile(settings.lockPath, `${process.pid}\n`);
      await expect(stopReceiver(settings)).rejects.toMatchObject(nothing);
      expect(await readFile(settings.lockPath, 'utf8')).toBe(`${process.pid}\n`);
    }));

  test('never signals a process that has not the lock, whatever the lock says', () =>
    withTempDir(async (directory) => {
      // Another pid namespace would see such a number, too.
      const innocent = spawn('sleep', ['60'], { stdio: 'ignore' });
      try {
        await withHolder({ pid: String(innocent.pid) }, async (settings) => {
          await expect(stopReceiver(settings)).rejects.toMatchObject({
            code: 'receiver',
            message: expect.stringContaining(`process ${innocent.pid}`),
          });
          expect(innocent.exitCode ?? innocent.signalCode).toBeNull();
          expect(await lockOwner(settings.lockPath)).toBe(innocent.pid);
        });
      } finally {
        innocent.kill('SIGKILL');
        await until('the innocent process to end', () => innocent.signalCode !== null);
      }
      expect(directory).not.toBe('');
    }));
});

describe('a slot', () => {
  test('is made and dropped, and what is there already or not any more is told', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        expect(await createSlot(settings, { ifNotExists: false })).toBe(
          "Creating physical replication slot 'walwarden' on server 'main'\nReplication slot 'walwarden' created",
        );
        expect(await pg.sql('select slot_name, restart_lsn is not null from pg_replication_slots')).toEqual([
          ['walwarden', 't'],
        ]);
        await expect(createSlot(settings, { ifNotExists: false })).rejects.toMatchObject({
          message: "Replication slot 'walwarden' already exists",
          hint: expect.stringContaining('--if-not-exists'),
        });
        expect(await createSlot(settings, { ifNotExists: true })).toBe("Replication slot 'walwarden' already exists");

        await streamUntil(settings, 'a slot in use to be kept', async () => {
          if ((await pg.sql('select 1 from pg_replication_slots where active')).length === 0) return false;
          await expect(dropSlot(settings)).rejects.toMatchObject({
            failure: 'slot-active',
            message: "Cannot drop replication slot 'walwarden' on server 'main' because it is in use",
            hint: 'stop the receiver first: walwarden receive-wal --stop main',
          });
          return true;
        });
        await until('the slot to be free', async () => {
          return (await pg.sql('select 1 from pg_replication_slots where active')).length === 0;
        });
        expect(await dropSlot(settings)).toContain("Replication slot 'walwarden' dropped");
        await expect(dropSlot(settings)).rejects.toMatchObject({
          failure: 'slot-missing',
          message: "Replication slot 'walwarden' does not exist",
        });
      }),
    ));

  test('in use by a foreign process is neither dropped nor reset from, and that process is named', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, {}, async ({ settings, streaming }) => {
        await createSlot(settings, { ifNotExists: false });
        await withReceiver(pg, { postgres: { streamingName: 'the_other_one' } }, (other) =>
          streamUntil(other.settings, 'the slot to be refused', async () => {
            const rows = await pg.sql('select active_pid from pg_replication_slots where active');
            const pid = rows[0]?.[0];
            if (pid === undefined || pid === null) return false;
            const holder = `server process ${pid}, "the_other_one"`;
            await expect(dropSlot(settings)).rejects.toMatchObject({
              failure: 'slot-active',
              message: `Cannot drop replication slot 'walwarden' on server 'main' because it is in use by ${holder}`,
              hint: expect.stringContaining('slot_name of [main]'),
            });
            await writeWal(streaming, { segment: 1, systemIdentifier: await pg.systemIdentifier() });
            const before = await readdir(streaming);
            await expect(resetReceiver(settings)).rejects.toMatchObject({
              failure: 'slot-active',
              message: `replication slot "walwarden" of main is in use by ${holder}`,
              hint: expect.stringContaining('stop the other receiver'),
            });
            expect(await readdir(streaming)).toEqual(before);
            return true;
          }),
        );
      }),
    ));

  test('of another cluster is neither made nor dropped', () =>
    withPostgres({}, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        await createSlot(settings, { ifNotExists: false });
        // A slot alone doesn't say whose archive this is.
        expect(await isThere(settings.identity.path)).toBe(false);
        await settings.identity.replace({ systemid: '42', version: '15' });
        const other = {
          failure: 'other-cluster',
          message: expect.stringContaining('streaming_conninfo of main leads to another cluster'),
          hint: expect.stringContaining('--accept-identity main'),
        };
        await expect(dropSlot(settings)).rejects.toMatchObject(other);
        await expect(createSlot(settings, { ifNotExists: true })).rejects.toMatchObject(other);
        expect(await pg.value('select slot_name from pg_replication_slots')).toBe('walwarden');
      }),
    ));

  test('without a name is none', () =>
    withPostgres({ start: false }, (pg) =>
      withReceiver(pg, { postgres: { slotName: null } }, async ({ settings }) => {
        const unnamed = { code: 'config', hint: 'set slot_name of [main]' };
        await expect(createSlot(settings, { ifNotExists: true })).rejects.toMatchObject(unnamed);
        await expect(dropSlot(settings)).rejects.toMatchObject(unnamed);
      }),
    ));

  test('of a server that is away is not made', () =>
    withPostgres({ start: false }, (pg) =>
      withReceiver(pg, {}, async ({ settings }) => {
        await expect(createSlot(settings, { ifNotExists: true })).rejects.toMatchObject({
          failure: 'unreachable',
          message: expect.stringContaining('streaming_conninfo of main'),
        });
      }),
    ));
});

test('a lock that we hold ourselves does not end us by mistake', () =>
  withTempDir(async (directory) => {
    const lockPath = join(directory, '.main-receive-wal.lock');
    let asked = 0;
    const onSigint = (): void => void (asked += 1);
    process.on('SIGINT', onSigint);
    try {
      const lock = await acquireLock(lockPath);
      const stopping = stopReceiver({ server: 'main', lockPath });
      await until('SIGINT', () => asked === 1);
      await lock[Symbol.asyncDispose]();
      expect(await stopping).toBe(`Stopped process receive-wal(${process.pid})`);
    } finally {
      process.off('SIGINT', onSigint);
    }
  }));
