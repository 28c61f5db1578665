import { execFileSync } from 'node:child_process';
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makeWal, writeWal } from '../../support/make-wal.ts';
import { jsonOf, withHttp } from './with-http.ts';

const wal = makeWal({ segment: 1 });
const places = ['incoming', 'streaming'] as const;

describe.concurrent('what others put where WAL is delivered', () => {
  test.each(places)('GET does not follow a link in %s, and no answer quotes what it leads to', (place) =>
    withHttp({}, async (server) => {
      const secret = join(server.home, 'secret');
      await writeFile(secret, 'the first line is a password\n');
      await symlink(secret, join(server[place], '00000002.history'));
      const answer = await server.get('00000002.history');
      expect(answer.status).toBe(503);
      expect(jsonOf(answer)).toMatchObject({ error: { message: expect.stringContaining('it is a symbolic link') } });
      expect(answer.body.toString()).not.toContain('password');
    }),
  );

  test.each(places)('no answer quotes a file in %s that is no history file', (place) =>
    withHttp({}, async (server) => {
      await writeFile(join(server[place], '00000002.history'), 'the first line is a password\n');
      const answer = await server.get('00000002.history');
      expect(answer.status).toBe(503);
      expect(answer.body.toString()).toContain('line 1');
      expect(answer.body.toString()).not.toContain('password');
      const put = await server.put('00000003.history', Buffer.from('the first line is a password\n'));
      expect(put.status).toBe(422);
      expect(put.body.toString()).not.toContain('password');
    }),
  );

  test.each(places)("GET hands out no segment of another server's, linked or copied into %s", (place) =>
    withHttp({}, async (server) => {
      await server.put(wal.name, wal.bytes);
      expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
      const elsewhere = join(server.home, 'elsewhere');
      await mkdir(elsewhere);
      const other = await writeWal(elsewhere, { segment: 2, systemIdentifier: 42n });
      await symlink(other.path, join(server[place], other.name));
      expect((await server.get(other.name)).status).toBe(503);
      const copied = await writeWal(server[place], { segment: 3, systemIdentifier: 42n });
      const answer = await server.get(copied.name);
      expect(answer.status).toBe(503);
      expect(jsonOf(answer)).toMatchObject({ error: { message: expect.stringContaining('identifier is 42') } });
    }),
  );

  test('a fifo keeps neither PUT nor GET, and many of them keep no other request', () =>
    withHttp({}, async (server) => {
      for (const segment of [1, 2, 3, 4, 5, 6]) {
        execFileSync('mkfifo', [join(server.incoming, makeWal({ segment }).name)]);
      }
      const answers = await Promise.all(
        [1, 2, 3, 4, 5, 6].map((segment) => {
          const { name, bytes } = makeWal({ segment });
          return server.put(name, bytes);
        }),
      );
      expect(answers.map(({ status }) => status)).toEqual([503, 503, 503, 503, 503, 503]);
      expect((await server.get(wal.name)).status).toBe(503);
      const next = makeWal({ segment: 7 });
      expect((await server.put(next.name, next.bytes)).status).toBe(201);
    }));

  test('PUT succeeds once a pass has taken what was in its place to errors', () =>
    withHttp({}, async (server) => {
      await symlink('/dev/zero', join(server.incoming, wal.name));
      expect((await server.put(wal.name, wal.bytes)).status).toBe(503);
      await server.cli(['archive-wal', 'main']);
      expect((await server.put(wal.name, wal.bytes)).status).toBe(201);
      expect(await readdir(server.incoming)).toEqual([wal.name]);
    }));
});
