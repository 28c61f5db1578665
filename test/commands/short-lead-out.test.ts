import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sha256 } from '../../src/storage/sha256.ts';
import { partialName, walName } from '../../src/wal/wal-name.ts';
import { partialWal, spliced } from '../wal/partial-wal.ts';
import { namesIn, withServer } from './with-server.ts';

const wal = await partialWal();
const name = walName(wal.name);
const partial = partialName(name);
const received = spliced(wal.whole, 500_000, Buffer.alloc(wal.whole.length));

test.each([
  ['the rest of its timeline, received, under the name of the partial segment', partial, received],
  ['the whole segment, where the beginning was stored as one', name, wal.whole],
])('what comes later and goes on takes the place of a beginning, as errors explain advises: %s', (_what, as, longer) =>
  withServer({}, async (server) => {
    await writeFile(join(server.incoming, as), wal.padded);
    expect((await server.cli(['-q', 'archive-wal', 'main'])).status).toBe(0);
    await writeFile(join(server.incoming, as), longer);
    expect((await server.cli(['-q', 'archive-wal', 'main'])).status).toBe(1);
    const [entry = ''] = await namesIn(server.errors);
    const explained = (await server.cli(['errors', 'explain', 'main', entry])).stdout;
    expect(explained).toContain('--replace');
    const replaced = await server.cli(['errors', 'resolve', '--replace', 'main', entry]);
    expect(replaced.status, replaced.stdout + replaced.stderr).toBe(0);
    expect(await namesIn(server.errors)).toEqual([]);
    expect(sha256((await server.cli(['get-wal', '--partial', 'main', name])).bytes)).toBe(sha256(longer));
    expect(await server.cli(['-q', 'archive-wal', 'main'])).toMatchObject({ status: 0 });
  }),
);
