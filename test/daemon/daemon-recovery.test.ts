import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { withArchivedPostgres, type Archive } from '../e2e/postgres-archive.ts';
import { ensureBuilt } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { RunningDaemon } from '../support/running-daemon.ts';

beforeAll(ensureBuilt);

/** As in docs/http.md: what fails is tried again by PostgreSQL. */
const archiveCommand = (socket: string): string =>
  `curl -sS --fail-with-body --unix-socket ${socket} --upload-file %p http://localhost/servers/main/wal/%f`;

/** As in docs/http.md: 404 is "not there", everything else "can't tell". */
const restoreCommand = (socket: string): string =>
  `code=$(curl -sS --fail --unix-socket ${socket} -o %p -w "%%{http_code}" http://localhost/servers/main/wal/%f) && exit 0; ` +
  `[ "$code" = 404 ] && exit 1; [ -e standby.signal ] && exit 1; exit 200`;

function startDaemon(archive: Archive): RunningDaemon {
  return new RunningDaemon(archive.config, archive.home, { ...archive.user, program: archive.program });
}

/** A PostgreSQL that archives over HTTP, a backup of it, and a row in each of so many segments after that. */
async function withArchive(
  segments: number,
  body: (pg: TestPostgres, archive: Archive, daemon: RunningDaemon, backup: string) => Promise<void>,
): Promise<void> {
  await withArchivedPostgres(
    {
      server: { compression: 'zstd' },
      archiving: (_pg, archive) =>
        Promise.resolve({ archive_command: archiveCommand(join(archive.home, 'walwarden.sock')) }),
    },
    async (pg, archive) => {
      const daemon = startDaemon(archive);
      try {
        await daemon.ready();
        await pg.sql('create table ledger (n int)');
        const backup = await pg.baseBackup();
        let last = '';
        for (let n = 1; n <= segments; n += 1) {
          await pg.sql(`insert into ledger values (${n})`);
          last = await pg.switchWal();
        }
        await pg.archived(last, 60_000);
        await daemon.waitsFor(`${last} in the archive`, async () =>
          (await readdir(join(archive.stored(last), '..'))).includes(last),
        );
        await body(pg, archive, daemon, backup);
      } finally {
        await daemon.dispose();
      }
    },
  );
}

const ledger = async (pg: TestPostgres): Promise<number> => Number(await pg.value('select count(*) from ledger'));

test('a PostgreSQL archives with curl, and is recovered with curl as restore_command', () =>
  withArchive(12, async (pg, archive, _daemon, backup) => {
    await pg.kill9();
    const restored = await pg.restore(backup, { restoreCommand: restoreCommand(join(archive.home, 'walwarden.sock')) });
    await restored.writable();
    expect(await ledger(restored)).toBe(12);
    expect(await readdir(archive.errors)).toEqual([]);
  }));

test('a recovery does not end early when the daemon is stopped halfway: PostgreSQL stops, and goes on later', () =>
  withArchive(30, async (pg, archive, daemon, backup) => {
    await pg.kill9();
    const socket = join(archive.home, 'walwarden.sock');
    // The daemon is gone once half of the segments were asked for.
    const marks = await pg.makeDirectory(join(pg.directory, 'asked'));
    const counting = `touch ${marks}/%f; [ $(ls ${marks} | wc -l) -gt 15 ] && kill -9 ${daemon.pid} 2>/dev/null; `;
    await expect(pg.restore(backup, { restoreCommand: counting + restoreCommand(socket) })).rejects.toThrow();
    await daemon.ended;
    expect((await readdir(marks)).length).toBeGreaterThan(15);
    const again = startDaemon(archive);
    try {
      await until('it to answer', () => again.isUp());
      const restored = await pg.restore(backup, { restoreCommand: restoreCommand(socket) });
      await restored.writable();
      expect(await ledger(restored)).toBe(30);
    } finally {
      await again.dispose();
    }
  }));

test('a standby waits while the daemon is away, and goes on when it is back', () =>
  withArchive(6, async (pg, archive, daemon, backup) => {
    const socket = join(archive.home, 'walwarden.sock');
    await daemon.stop();
    const marks = await pg.makeDirectory(join(pg.directory, 'asked'));
    const counting = `touch ${marks}/$(date +%%s%%N); `;
    // It takes connections once it is consistent, for which it needs the archive.
    const starting = pg.restore(backup, { restoreCommand: counting + restoreCommand(socket), mode: 'standby' });
    starting.catch(() => {});
    await until('it to ask several times', async () => (await readdir(marks)).length > 5);
    const again = startDaemon(archive);
    try {
      const standby = await starting;
      await until('all rows', async () => (await ledger(standby).catch(() => 0)) === 6, 60_000);
      expect(await standby.value('select pg_is_in_recovery()')).toBe('t');
    } finally {
      await again.dispose();
    }
  }));
