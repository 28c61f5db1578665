import { chown, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { ErrorsDirectory } from '../../src/archiver/errors-directory.ts';
import { copyAsOurs } from '../../src/durable/durable-file.ts';
import { keepReceived } from '../../src/receiver/kept-partial.ts';
import { arrive, saveAll, waiting, withStorage } from '../storage/with-storage.ts';
import { withTempDir } from '../support/temp-dir.ts';

// On Node 22 and later, root's copyFile gives a copy the source's owner. As another user than root, only we can own it.
const root = process.geteuid?.() === 0;
const [OTHER_UID, OTHER_GID] = root ? [65_533, 65_532] : [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
const OURS = { uid: process.geteuid?.(), gid: process.getegid?.() };

async function ownerOf(path: string | Buffer): Promise<{ uid: number; gid: number }> {
  const { uid, gid } = await stat(path);
  return { uid, gid };
}

async function writeForeign(path: string, bytes = Buffer.from('WAL')): Promise<void> {
  await writeFile(path, bytes, { mode: 0o644 });
  await chown(path, OTHER_UID, OTHER_GID);
}

test('a copy is ours, whoever owns its source, and never takes a name that is taken', () =>
  withTempDir(async (directory) => {
    const [source, target] = [join(directory, 'source'), join(directory, 'target')];
    await writeForeign(source);
    await copyAsOurs(source, target);
    expect(await ownerOf(target)).toEqual(OURS);
    await expect(copyAsOurs(source, target)).rejects.toMatchObject({ code: 'EEXIST' });
    expect(await ownerOf(target)).toEqual(OURS);
  }));

test("what another user delivered is ours once it is archived, though its inode can't be", () =>
  withStorage({ compression: null }, async ({ incoming, open }) => {
    const { name, path } = await arrive(incoming);
    await chown(path, OTHER_UID, OTHER_GID);
    const strategy = open();
    const [result] = await saveAll(strategy, [await waiting(path)]);
    expect(result?.outcome).toBe('stored');
    expect(await ownerOf(strategy.getFullPath(name))).toEqual(OURS);
  }));

test("a copy that goes to errors is ours, as is one of what another user's pg_receivewal received", () =>
  withTempDir(async (directory) => {
    const streaming = join(directory, 'streaming');
    await mkdir(streaming);
    const entry = '000000010000000000000001.partial';
    const source = join(streaming, entry);
    await writeForeign(source, Buffer.alloc(1024 * 1024, 1));

    const errors = new ErrorsDirectory(join(directory, 'errors'), join(directory, 'reasons'));
    const moved = await errors.takeCopy(source, entry, 'duplicate', 'refused');
    expect(await ownerOf(join(errors.path, moved))).toEqual(OURS);

    const settings = {
      server: 'main',
      streamingDirectory: streaming,
      claims: join(directory, '.claimed', 'streaming'),
      reportPath: join(directory, '.receive-wal.json'),
      errors,
      logger: pino({ level: 'silent' }),
    };
    const file = { entry, timeline: 1, segment: 1n, partial: true, compressed: false, size: 1024 * 1024 };
    await keepReceived(settings, { timeline: 1, lsn: 0x10_0000n, file }, 1024 * 1024);
    expect(await ownerOf(join(directory, '.receive-wal-kept', entry))).toEqual(OURS);
  }));
