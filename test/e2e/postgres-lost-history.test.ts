import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { withDaemon } from '../support/running-daemon.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { makeWal } from '../support/make-wal.ts';
import { withServer } from '../commands/with-server.ts';
import { withArchivedPostgres } from './postgres-archive.ts';
import { withStreamingHome } from './running-receiver.ts';

const NAME = '00000002.history';
const SENTENCE = 'the history of timeline 2 was delivered empty; copy it from pg_wal';

const rows = async (pg: TestPostgres): Promise<(string | null)[]> =>
  (await pg.sql('select t from ledger order by t')).map((row) => row[0] ?? null);

test('a history delivered empty ends no recovery while its timeline has no WAL, and stops it from then on, until it is whole', () =>
  withArchivedPostgres({ server: { incomplete_wal_timeout: '1 s' } }, async (pg, archive) => {
    await pg.sql(`create table ledger (t text); insert into ledger values ('1')`);
    const backup = await pg.baseBackup();
    await pg.archived(await pg.switchWal());
    await pg.kill9();
    // A full disk leaves such a file, and a cp that doesn't say so.
    const torn = `case %f in *.history) : > ${archive.incoming}/%f ;; *) cp %p ${archive.incoming}/%f ;; esac`;
    const settings = { archive_mode: 'on', archive_command: torn, wal_keep_size: '1GB' };
    const second = await pg.restore(backup, { restoreCommand: archive.restoreCommand, settings });
    await second.writable();
    await second.archived(NAME);
    await until('it to be in errors', async () => {
      await archive.anyPass();
      return (await readdir(archive.errors)).some((entry) => entry.startsWith(NAME));
    });

    const absent = await archive.getWal(NAME);
    expect(absent).toMatchObject({ status: 1, stdout: '' });
    const third = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
    await third.writable();
    expect(await rows(third)).toEqual(['1']);
    await third.kill9();

    await second.sql(`insert into ledger values ('2')`);
    await second.archived(await second.switchWal());
    const stopped = await archive.getWal(NAME);
    expect(stopped).toMatchObject({ status: 200, stdout: '' });
    expect(stopped.stderr).toContain(`ERROR: ${SENTENCE}\n`);
    await expect(pg.restore(backup, { restoreCommand: archive.restoreCommand })).rejects.toThrow(
      /could not restore file "00000002\.history" from archive/,
    );

    // What the advice says.
    await copyFile(join(second.walDir, NAME), join(archive.incoming, NAME));
    await pg.giveToServer(join(archive.incoming, NAME));
    await until('it to be archived', async () => {
      await archive.anyPass();
      return !(await readdir(archive.incoming)).includes(NAME);
    });
    const last = await pg.restore(backup, { restoreCommand: archive.restoreCommand });
    await last.writable();
    expect(await rows(last)).toEqual(['1', '2']);
    const explained = await archive.walwarden(['errors', 'explain', 'main']);
    expect(explained.stdout).toContain('and 00000002.history is archived, and begins with it');
    expect(await archive.walwarden(['errors', 'resolve', 'main'])).toMatchObject({ status: 0 });
    expect(await readdir(archive.errors)).toEqual([]);
  }));

test('the daemon moves it too, and answers 404 without WAL of its timeline and 503 with it', () =>
  withServer({ incomplete_wal_timeout: '1 s', archiver_poll_interval: '1 s' }, async (server) => {
    await withDaemon(server.config, server.home, async (daemon) => {
      await writeFile(join(server.incoming, NAME), '');
      await daemon.waitsFor('it to be in errors', async () =>
        (await readdir(server.errors)).some((entry) => entry.startsWith(NAME)),
      );
      const path = `/servers/${server.server}/wal/${NAME}`;
      expect((await daemon.ask(path)).status).toBe(404);
      const { name, bytes } = makeWal({ timeline: 2, segment: 3 });
      await writeFile(join(server.incoming, name), bytes);
      const { status, body } = await daemon.ask(path);
      expect(status).toBe(503);
      expect(JSON.parse(body.toString())).toMatchObject({ error: { code: 'incomplete-wal', message: SENTENCE } });
    });
  }));

test('streaming fetches it by itself: one that was delivered empty, and one that a crash left in streaming', () =>
  withStreamingHome(
    { server: { archiver: 'on', incomplete_wal_timeout: '1 s', receive_wal_stall_timeout: '2 s' } },
    async (pg, home) => {
      for (let timeline = 2; timeline <= 3; timeline += 1) {
        await pg.stop('fast');
        await writeFile(join(pg.dataDir, 'standby.signal'), '');
        await pg.giveToServer(join(pg.dataDir, 'standby.signal'));
        await pg.start();
        await pg.promote();
      }
      const last = '00000003.history';
      await home.cli(['archive-wal', 'main']);
      await writeFile(join(home.streaming, last), '');
      await home.startStreaming();
      // pg_receivewal asks for the history of the timeline that it streams, and for no earlier one.
      expect(await readFile(join(home.streaming, last), 'utf8')).toBe(await readFile(join(pg.walDir, last), 'utf8'));
      expect(await readdir(home.streaming)).not.toContain(NAME);
      await writeFile(join(home.home.incoming, NAME), '');
      await until('it to be fetched', async () => {
        await home.cli(['archive-wal', 'main']);
        return (await home.cli(['get-wal', 'main', NAME])).status === 0;
      });
      for (const name of [NAME, last]) {
        const { stdout } = await home.cli(['get-wal', 'main', name]);
        expect(stdout).toBe(await readFile(join(pg.walDir, name), 'utf8'));
      }
      await home.cli(['archive-wal', 'main']);
      const { stdout } = await home.cli(['errors', 'resolve', 'main']);
      expect(stdout).toContain('2 files resolved, 0 left');
    },
  ));
