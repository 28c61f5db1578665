import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { repairPartials } from '../../src/receiver/partial-file.ts';
import { listStreamingFiles } from '../../src/receiver/streaming-directory.ts';
import { makeWal } from '../support/make-wal.ts';
import { withHome, type TestHome } from '../support/temp-dir.ts';

const MIB = 1024 * 1024;
const NAME = '000000010000000000000003.partial';

/** Repairs what lies in streaming; tells what was logged. */
async function repair(home: TestHome, meanwhile: () => Promise<void> = async () => {}): Promise<string[]> {
  const logged: string[] = [];
  const settings = {
    server: 'main',
    streamingDirectory: home.streaming,
    errors: new ErrorsDirectory(home.errors, join(home.home, '.errors')),
    logger: pino({ base: null }, { write: (line) => logged.push(JSON.parse(line).msg) }),
  };
  const files = await listStreamingFiles(home.streaming, MIB);
  await meanwhile();
  await repairPartials(settings, files, MIB);
  return logged;
}

test('a short partial file keeps what was received, and is filled up with zeros', () =>
  withHome(async (home) => {
    const received = makeWal({ segment: 3 }).bytes.subarray(0, 123_457);
    await writeFile(join(home.streaming, NAME), received);
    const [told = ''] = await repair(home);
    expect(told).toContain('has 123457 bytes, and a segment of this server has 1048576: filled up');
    const now = await readFile(join(home.streaming, NAME));
    expect(now.length).toBe(MIB);
    expect(now.subarray(0, received.length).equals(received)).toBe(true);
    expect(now.subarray(received.length).every((byte) => byte === 0)).toBe(true);
    // No hole: the space is there when pg_receivewal writes.
    expect((await stat(join(home.streaming, NAME))).blocks * 512).toBeGreaterThanOrEqual(MIB);
    expect(await repair(home)).toEqual([]);
  }));

test('a long partial file is cut, and a copy of all of it is in errors', () =>
  withHome(async (home) => {
    const bytes = Buffer.concat([makeWal({ segment: 3 }).bytes, Buffer.from('more')]);
    await writeFile(join(home.streaming, NAME), bytes);
    const [told = ''] = await repair(home);
    const [copy = ''] = await readdir(home.errors);
    expect(copy).toMatch(/^000000010000000000000003\.partial\.\d{8}T\d{6}Z\.unknown$/);
    expect(told).toContain(copy);
    expect((await readFile(join(home.errors, copy))).equals(bytes)).toBe(true);
    expect((await readFile(join(home.streaming, NAME))).equals(bytes.subarray(0, MIB))).toBe(true);
  }));

test('an empty one, a whole one, complete segments and compressed ones are left alone', () =>
  withHome(async (home) => {
    const sizes = {
      '000000010000000000000003.partial': 0,
      '000000010000000000000004.partial': MIB,
      '000000010000000000000005': 77,
      '000000010000000000000006.gz.partial': 77,
    };
    for (const [name, size] of Object.entries(sizes)) await writeFile(join(home.streaming, name), Buffer.alloc(size));
    expect(await repair(home)).toEqual([]);
    for (const [name, size] of Object.entries(sizes)) expect((await stat(join(home.streaming, name))).size).toBe(size);
    expect(await readdir(home.errors)).toEqual([]);
  }));

test.each([
  ['short', 123_457, MIB],
  ['long', MIB + 1, 2 * MIB],
])('a %s one that somebody else has written to since it was listed is left alone', (_case, listed, now) =>
  withHome(async (home) => {
    const path = join(home.streaming, NAME);
    await writeFile(path, Buffer.alloc(listed, 1));
    const written = Buffer.alloc(now, 2);
    expect(await repair(home, () => writeFile(path, written))).toEqual([]);
    expect((await readFile(path)).equals(written)).toBe(true);
    expect(await readdir(home.errors)).toEqual([]);
  }),
);
