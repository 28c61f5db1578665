import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { settleKept } from '../../src/receiver/kept-partial.ts';
import { makeWal } from '../support/make-wal.ts';
import { withHome } from '../support/temp-dir.ts';

const { name, bytes } = makeWal({});
const other = makeWal({ seed: 2 }).bytes;

test.each([
  ['is dropped when the archive has all of it', async () => bytes, 0],
  ['goes to errors when the archive has something else', async () => other, 1],
  ['goes to errors when it is nowhere', async () => null, 1],
  ['goes to errors when nobody can tell', async () => Promise.reject(new Error('the bucket is away')), 1],
])('what was received before a kill, and is archived before it was compared, %s', (_what, readArchived, inErrors) =>
  withHome(async (home) => {
    const backup = join(home.home, home.server);
    const kept = join(backup, '.receive-wal-kept');
    await mkdir(kept);
    await writeFile(join(kept, `${name}.partial`), bytes.subarray(0, 500_000));
    const settings = {
      server: 'main',
      streamingDirectory: home.streaming,
      claims: join(backup, '.claimed', 'streaming'),
      reportPath: join(backup, '.receive-wal.json'),
      errors: new ErrorsDirectory(home.errors, join(backup, '.errors')),
      readArchived,
      logger: pino({ level: 'silent' }),
    };
    await settleKept(settings, null);
    expect(await readdir(kept)).toEqual([]);
    expect(await readdir(home.errors)).toHaveLength(inErrors);
  }),
);
