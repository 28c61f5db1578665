import { existsSync } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { until } from '../support/poll.ts';
import type { TestPostgres } from '../support/postgres.ts';
import { withArchivedPostgres, type Archive } from './postgres-archive.ts';

/** Gives a WAL file with its checksum to put-wal, and notes that it was called. */
const PUSH_WAL = `#!/bin/sh
set -u
directory=$(dirname "$1"); wal=$(basename "$1"); calls=$2; shift 2
sums=$(mktemp -d); trap 'rm -r "$sums"' EXIT
cd "$directory"
sha256sum "$wal" > "$sums/SHA256SUMS"
tar -cf - "$wal" -C "$sums" SHA256SUMS | "$@"
status=$?
echo "$wal $status" >> "$calls"
exit $status
`;

const check = async (archive: Archive): Promise<string> => (await archive.walwarden(['check', 'main'])).stdout;

async function damagePage(pg: TestPostgres, name: string): Promise<void> {
  await using handle = await open(join(pg.walDir, name), 'r+');
  await handle.write(Buffer.alloc(8192), 0, 8192, 8192);
}

test('a page that is bad in pg_wal is refused, check says the command that has it taken, and with it archiving goes on', () => {
  let calls = '';
  return withArchivedPostgres(
    {
      archiving: async (pg) => {
        calls = join(await pg.makeDirectory(join(pg.directory, 'called')), 'calls');
        await writeFile(join(pg.directory, 'push-wal'), PUSH_WAL, { mode: 0o755 });
        return { archive_command: 'false' };
      },
    },
    async (pg, archive) => {
      const refusals = async (name: string): Promise<number> =>
        existsSync(calls)
          ? (await readFile(calls, 'utf8')).split('\n').filter((line) => line === `${name} 1`).length
          : 0;
      const broken = await pg.writeSegments(2);
      await damagePage(pg, broken);
      const after = await pg.switchWal();
      const push = join(pg.directory, 'push-wal');
      await pg.configure({ archive_command: `${push} %p ${calls} ${archive.command('put-wal', 'main')}` });
      await until('it to be refused twice', async () => (await refusals(broken)) >= 2, 120_000);

      const said = (await check(archive)).split('\n').find((line) => line.includes('refused WAL'));
      expect(said).toContain(`${broken} was refused`);
      expect(said).toContain('page 1 (at byte 8192)');
      const nagios = await archive.walwarden(['check', '--nagios', 'main']);
      expect(nagios.status).toBe(2);
      expect(nagios.stdout).toContain('refused WAL');
      expect(await readFile(pg.logFile, 'utf8')).toContain(`walwarden errors resolve --as-it-is main ${broken}`);

      const [, command = ''] = /walwarden (errors resolve --as-it-is main [0-9A-F]{24})/.exec(said ?? '') ?? [];
      expect(await archive.walwarden(command.split(' '))).toMatchObject({ status: 0 });
      await pg.switchWal(); // wakes the archiver
      await pg.archived(after, 120_000);
      await archive.pass();
      for (const name of [broken, after]) {
        const { status, bytes } = await archive.getWal(name);
        expect(status).toBe(0);
        expect(bytes.equals(await readFile(join(pg.walDir, name)))).toBe(true);
      }
      expect(await check(archive)).not.toContain('refused WAL');
      expect(await archive.timelines()).toMatchObject([{ gaps: [] }]);
    },
  );
});
