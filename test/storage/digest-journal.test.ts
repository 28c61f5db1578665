import { appendFile, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { DigestJournal, type DigestEntry } from '../../src/storage/digest-journal.ts';
import { sha256 } from '../../src/storage/sha256.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { collect } from '../catalogue/with-catalogue.ts';
import { makeWal } from '../support/make-wal.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { useGpgKey } from './with-gpg-key.ts';
import { arrive, saveAll, waiting, withStorage, type StorageOptions } from './with-storage.ts';

function entry(segment: number, stored: string, facts: Partial<DigestEntry> = {}): DigestEntry {
  return {
    name: makeWal({ segment, content: 'zeros' }).name,
    plain: sha256(Buffer.from(String(segment))),
    stored: sha256(Buffer.from(stored)),
    compression: 'gzip',
    segmentSize: 1 << 20,
    ...facts,
  };
}

const withJournal = <T>(body: (journal: DigestJournal, path: string) => Promise<T>): Promise<T> =>
  withTempDir((directory) => {
    const path = join(directory, 'below', 'digests');
    return body(new DigestJournal(path), path);
  });

describe('the journal', () => {
  test('finds what was appended, the latest last, whoever appended it', () =>
    withJournal(async (journal, path) => {
      const history = entry(2, 'h', { name: walName('00000002.history'), compression: null, segmentSize: null });
      expect(await journal.find(history.name)).toEqual([]);
      expect(await journal.segmentSize()).toBeNull();
      await journal.append([history, entry(1, 'a')]);
      await new DigestJournal(path).append([entry(1, 'b')]);
      expect(await journal.find(history.name)).toEqual([history]);
      expect(await journal.find(entry(1, '').name)).toEqual([entry(1, 'a'), entry(1, 'b')]);
      expect(await journal.segmentSize()).toBe(1 << 20);
      expect((await stat(path)).mode & 0o777).toBe(0o600);
    }));

  test('an append of nothing makes no file', () =>
    withJournal(async (journal, path) => {
      await journal.append([]);
      await expect(stat(dirname(path))).rejects.toThrow('ENOENT');
    }));

  test('survives a line torn at any byte', () =>
    withJournal(async (journal, path) => {
      await journal.append([entry(1, 'a')]);
      const whole = await readFile(path);
      await journal.append([entry(2, 'b')]);
      const both = await readFile(path);
      for (let cut = whole.length + 1; cut < both.length; cut += 1) {
        await writeFile(path, both.subarray(0, cut));
        await journal.append([entry(3, 'c')]);
        expect(await journal.find(entry(1, '').name)).toEqual([entry(1, 'a')]);
        expect(await journal.find(entry(3, '').name)).toEqual([entry(3, 'c')]);
        // Once its digests are whole it is an entry, never a wrong one.
        const [second] = await journal.find(entry(2, '').name);
        if (second !== undefined) {
          expect(second).toEqual({ ...entry(2, 'b'), segmentSize: cut === both.length - 1 ? 1 << 20 : null });
        }
      }
    }));

  test('holes and garbage are passed over', () =>
    withJournal(async (journal, path) => {
      await journal.append([entry(1, 'a')]);
      await appendFile(path, Buffer.concat([Buffer.alloc(4096), Buffer.from('\nnonsense\n\xff\xfe\n', 'latin1')]));
      await journal.append([entry(2, 'b')]);
      expect(await journal.find(entry(2, '').name)).toEqual([entry(2, 'b')]);
    }));

  test('forgets names, and what a crash left of forgetting', () =>
    withJournal(async (journal, path) => {
      await journal.forget(new Set([entry(1, '').name]));
      await journal.append([entry(1, 'a'), entry(2, 'b'), entry(1, 'c')]);
      await writeFile(`${path}.tmp`, 'left');
      await journal.forget(new Set([entry(1, '').name]));
      expect(await journal.find(entry(1, '').name)).toEqual([]);
      expect(await journal.find(entry(2, '').name)).toEqual([entry(2, 'b')]);
      expect(await readdir(dirname(path))).toEqual(['digests']);
    }));
});

const key = useGpgKey();

describe('a duplicate of an encrypted file', () => {
  /** As on a host that only has the public key. */
  const publicOnly = (): StorageOptions => ({
    compression: 'zstd',
    encryption: { keyId: key().keyId, homedir: key().publicHome },
    keys: { gnupgHome: key().publicHome },
  });

  test('is told by the journal where the secret key is elsewhere', () =>
    withStorage(publicOnly(), async ({ incoming, open, catalogue }) => {
      await saveAll(open(), [(await arrive(incoming)).wal]);
      const lines = await collect(catalogue.read());
      const again = await arrive(incoming);
      expect(await saveAll(open(), [again.wal])).toMatchObject([{ outcome: 'already-stored' }]);
      expect(await collect(catalogue.read())).toMatchObject(
        lines.map(({ name, size, compression }) => ({ name, size, compression })),
      );
      const other = await arrive(incoming, { seed: 2 });
      expect(await saveAll(open(), [other.wal])).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining('its content is another') },
      ]);
      // The entries of the two that were not published change nothing.
      const third = await arrive(incoming);
      expect(await saveAll(open(), [third.wal])).toMatchObject([{ outcome: 'already-stored' }]);
    }));

  test('without the journal is told by decryption', () =>
    withStorage({ ...publicOnly(), keys: { gnupgHome: key().homedir } }, async ({ incoming, journalPath, open }) => {
      await saveAll(open(), [(await arrive(incoming)).wal]);
      await rm(journalPath);
      expect(await saveAll(open(), [(await arrive(incoming)).wal])).toMatchObject([{ outcome: 'already-stored' }]);
      await rm(journalPath);
      expect(await saveAll(open(), [(await arrive(incoming, { seed: 2 })).wal])).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining('its content is another') },
      ]);
    }));

  test('without both is a conflict, which says why', () =>
    withStorage(publicOnly(), async ({ incoming, journalPath, open }) => {
      await saveAll(open(), [(await arrive(incoming)).wal]);
      await rm(journalPath);
      expect(await saveAll(open(), [(await arrive(incoming)).wal])).toMatchObject([
        { outcome: 'conflict', reason: expect.stringContaining("can't be read, so that nobody can tell") },
      ]);
    }));

  test('is still told after the file was deleted and archived again in the middle of the deletion', () =>
    withStorage(publicOnly(), async ({ incoming, catalogue, open }) => {
      await saveAll(open(), [(await arrive(incoming)).wal]);
      const infos = await collect(catalogue.read());
      const again = await arrive(incoming, { seed: 2 });
      const strategy = open({
        hooks: {
          after: async () => {
            expect(await saveAll(open(), [again.wal])).toMatchObject([{ outcome: 'stored' }]);
            return { outcome: 'continue', reason: '' };
          },
        },
      });
      await mkdir(incoming, { recursive: true });
      await strategy.delete(new Map([['', infos]]));
      expect(await saveAll(open(), [(await arrive(incoming, { seed: 2 })).wal])).toMatchObject([
        { outcome: 'already-stored' },
      ]);
    }));

  test('that arrived under a claim of an earlier configuration is told as well', () =>
    withStorage(publicOnly(), async ({ incoming, open }) => {
      await saveAll(open(), [(await arrive(incoming)).wal]);
      const { name, bytes } = makeWal();
      const claim = join(incoming, `.walwarden-${name}`);
      await writeFile(claim, bytes);
      expect(await saveAll(open(), [await waiting(claim, name)])).toMatchObject([{ outcome: 'already-stored' }]);
      expect(await readdir(incoming)).toEqual([]);
    }));
});
