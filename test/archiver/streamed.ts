import { readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { walDirectory, walName, type WalName } from '../../src/wal/wal-name.ts';
import { makeWal, type WalOptions } from '../support/make-wal.ts';
import type { TestArchiver } from './with-archiver.ts';

export const nameOf = (segment: number, timeline = 1): WalName => makeWal({ timeline, segment, content: 'zeros' }).name;

export const partialOf = (segment: number, timeline = 1): WalName => walName(`${nameOf(segment, timeline)}.partial`);

/** A file as pg_receivewal pads it: full size, WAL in front, zeros behind. */
export async function writePartial(directory: string, options: WalOptions): Promise<string> {
  const { name, bytes } = makeWal(options);
  const path = join(directory, `${name}.partial`);
  await writeFile(path, Buffer.concat([bytes.subarray(0, 300_000), Buffer.alloc(bytes.length - 300_000)]));
  return path;
}

/** Makes a file one that was written long ago: files of one tick of the clock look as if they were written together. */
export async function age(path: string): Promise<void> {
  await utimes(path, 1_700_000_000, 1_700_000_000);
}

export function storedBytes({ wals }: TestArchiver, name: WalName): Promise<Buffer> {
  return readFile(join(wals, walDirectory(name), name));
}
