import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { makeArchive, withArchivedPostgres } from './postgres-archive.ts';

/** Says what it was told, a line a call, and stops the pass while there is a file `stop`. */
const SCRIPT = `#!/bin/sh
here=$(dirname "$0")
echo "$BARMAN_HOOK $BARMAN_PHASE $BARMAN_RETRY $BARMAN_SERVER $BARMAN_SEGMENT $BARMAN_FILE\
 $BARMAN_SIZE \${BARMAN_COMPRESSION:-none} $(stat -c %s "$BARMAN_FILE")" >> "$here/calls"
if [ "$BARMAN_PHASE" = pre ] && [ -e "$here/stop" ]; then exit 63; fi
`;

test('hook scripts see each file before and after; exit status 63 ends the pass, and the file stays', () =>
  withArchivedPostgres({ archiving: async () => ({ archive_command: 'false' }) }, async (pg) => {
    const scripts = await pg.makeDirectory(join(pg.directory, 'scripts'));
    const script = join(scripts, 'hook');
    await writeFile(script, SCRIPT, { mode: 0o755 });
    const archive = await makeArchive(pg, {
      compression: 'zstd',
      pre_archive_retry_script: script,
      post_archive_script: script,
    });
    const calls = async (): Promise<string[]> => {
      const path = join(scripts, 'calls');
      return (await isThere(path)) ? (await readFile(path, 'utf8')).trim().split('\n') : [];
    };
    await writeFile(join(scripts, 'stop'), '');
    await pg.configure({ archive_command: archive.copyCommand });
    const last = await pg.writeSegments(3);
    await pg.archived(last);
    const names = (await readdir(archive.incoming)).sort();
    const [first = ''] = names;
    expect(names).toContain(last);

    const stopped = await archive.walwarden(['archive-wal', 'main']);
    expect(stopped.status).toBe(1);
    expect(stopped.stderr).toContain(script);
    expect(await readdir(archive.incoming)).toHaveLength(names.length);
    expect(await archive.timelines()).toEqual([]);
    const source = join(archive.incoming, first);
    expect(await calls()).toEqual([
      `archive_retry_script pre 1 main ${first} ${source} ${pg.segmentSize} none ${pg.segmentSize}`,
    ]);

    await rm(join(scripts, 'stop'));
    await rm(join(scripts, 'calls'));
    const { archived } = await archive.pass();
    expect(archived.map(({ name }) => name)).toEqual(names);
    const told = await calls();
    expect(told.filter((line) => line.includes(' pre '))).toEqual(
      names.map(
        (name) =>
          `archive_retry_script pre 1 main ${name} ${join(archive.incoming, name)} ${pg.segmentSize} none ${pg.segmentSize}`,
      ),
    );
    const after = await Promise.all(
      names.map(async (name) => {
        const { length } = await readFile(archive.stored(name));
        return `archive_script post 0 main ${name} ${archive.stored(name)} ${length} zstd ${length}`;
      }),
    );
    expect(told.filter((line) => line.includes(' post '))).toEqual(after);
  }));
