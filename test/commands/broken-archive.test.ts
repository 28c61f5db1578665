import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { brokenWal } from '../support/broken-wal.ts';
import { TEST_SYSTEM_IDENTIFIER, writeWal } from '../support/make-wal.ts';
import { withHttp } from '../daemon/http/with-http.ts';
import { catalogueLines, json, namesIn, placeStored, withServer } from './with-server.ts';

// What an archive took before all pages were looked at is handed out as it came: PostgreSQL judges it.
test.each([
  ['plain', (bytes: Buffer) => bytes, 'None'],
  ['compressed', (bytes: Buffer) => gzipSync(bytes), 'gzip'],
])('an archive that has a segment with a damaged later page works as before (%s)', (_what, pack, compression) =>
  withHttp({}, async (server) => {
    const { name, bytes } = brokenWal({ segment: 1 });
    await placeStored(server, name, pack(bytes));
    expect(await server.cli(['rebuild-xlogdb', 'main'])).toMatchObject({ status: 0 });
    expect(await catalogueLines(server)).toEqual([
      expect.stringMatching(new RegExp(`^${name}\t.*\t${compression}\tNone$`)),
    ]);
    const { status, bytes: got } = await server.cli(['get-wal', 'main', name]);
    expect(status).toBe(0);
    expect(got.equals(bytes)).toBe(true);
    expect((await server.get(name)).body.equals(bytes)).toBe(true);

    // Its first page still says whose archive it is, and how large segments are.
    const own = await writeWal(server.incoming, { segment: 2 });
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    expect(await server.opened().identity.current()).toEqual({
      systemid: String(TEST_SYSTEM_IDENTIFIER),
      version: '15',
    });
    expect(await server.opened().segmentSize()).toBe(bytes.length);
    expect((await server.get(own.name)).body.equals(own.bytes)).toBe(true);
    // The same once more, as it was archived: it is there already, and its source goes.
    expect((await server.put(name, bytes)).status).toBe(200);
    await writeFile(join(server.incoming, name), bytes);
    expect(await server.cli(['archive-wal', 'main'])).toMatchObject({ status: 0 });
    expect(await namesIn(server.incoming)).toEqual([]);
    expect(await namesIn(server.errors)).toEqual([]);
  }),
);

test('errors explain says which page of a segment is not its own', () =>
  withServer({}, async (server) => {
    const { name, bytes } = brokenWal({ segment: 1 });
    await writeFile(join(server.incoming, name), bytes);
    expect((await server.cli(['archive-wal', 'main'])).status).toBe(1);
    const explained = json(await server.cli(['-f', 'json', 'errors', 'explain', 'main']));
    expect(explained).toMatchObject([{ name, finding: expect.stringMatching(/page 32 \(at byte 262144\)/) }]);
  }));
