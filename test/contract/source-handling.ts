import { mkdir, open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { WalwardenError } from '../../src/errors.ts';
import type { WalHooks } from '../../src/hooks/wal-hooks.ts';
import { arrive, namesOf, plainOf, saveAll, waiting } from '../storage/with-storage.ts';
import { makeWal } from '../support/make-wal.ts';
import type { StorageFacts, WithStorageUnderTest } from './wal-storage-strategy.ts';

/** What every storage strategy leaves to a writer that still needs its file. */
export function describeSourceHandling(facts: StorageFacts, withStorage: WithStorageUnderTest): void {
  describe(`WalStorageStrategy, ${facts.label}: sources that are not ours alone`, () => {
    test('a file to be kept stays as it is, under its own name all the time; the others of its batch go', () =>
      withStorage(async (storage) => {
        const sources: string[] = [];
        const before: WalHooks['before'] = async (_operation, _wal, path) => {
          sources.push(path);
          return { outcome: 'continue', reason: '' };
        };
        const strategy = storage.open({ hooks: { before } });
        const files = [];
        for (const segment of [1, 2, 3]) files.push(await arrive(storage.incoming, { segment }));
        const [, kept] = files;
        if (kept === undefined) throw new Error('no file');
        const wals = files.map(({ wal }) => (wal === kept.wal ? ({ ...wal, handling: 'keep' } as const) : wal));
        const results = await saveAll(strategy, wals);
        expect(results.map(({ outcome, wal }) => [outcome, wal.handling])).toEqual([
          ['stored', undefined],
          ['stored', 'keep'],
          ['stored', undefined],
        ]);
        expect(await readdir(storage.incoming)).toEqual([kept.name]);
        expect(await waiting(kept.path)).toEqual(kept.wal);
        expect(sources[1]).toBe(kept.path);
        expect((await plainOf(storage, strategy, kept.name))?.equals(kept.bytes)).toBe(true);
        expect(await namesOf(storage.catalogue)).toEqual(files.map(({ name }) => name));
        // What its writer does to it later is nothing to the archive.
        const again = { ...kept.wal, handling: 'keep' } as const;
        expect(await saveAll(strategy, [again])).toMatchObject([{ outcome: 'already-stored' }]);
        expect(await waiting(kept.path)).toEqual(kept.wal);
        await writeFile(kept.path, makeWal({ segment: 2, seed: 7 }).bytes);
        expect((await plainOf(storage, strategy, kept.name))?.equals(kept.bytes)).toBe(true);
        const other = { ...(await waiting(kept.path)), handling: 'keep' } as const;
        expect(await saveAll(strategy, [other])).toMatchObject([{ outcome: 'conflict', wal: { path: kept.path } }]);
        expect(await readdir(storage.incoming)).toEqual([kept.name]);
      }));

    test('a file to be copied is never claimed, and goes only when nobody wrote to it meanwhile', () =>
      withStorage(async (storage) => {
        const sources: string[] = [];
        let meanwhile: (() => Promise<void>) | null = null;
        const hooks: Partial<WalHooks> = {
          before: async (_operation, _wal, path) => {
            sources.push(path);
            return { outcome: 'continue', reason: '' };
          },
          after: async () => {
            await meanwhile?.();
            return { outcome: 'continue', reason: '' };
          },
        };
        const strategy = storage.open({ hooks });
        const first = await arrive(storage.incoming, { segment: 1 });
        const second = await arrive(storage.incoming, { segment: 2 });
        const copied = { ...first.wal, handling: 'copy' } as const;
        expect(await saveAll(strategy, [copied])).toMatchObject([{ outcome: 'stored' }]);
        expect(await readdir(storage.incoming)).toEqual([second.name]);
        const written = makeWal({ segment: 2, seed: 7 }).bytes;
        // As a writer does that has it open, whatever its name is by now.
        const handle = await open(second.path, 'r+');
        meanwhile = async () => void (await handle.write(written));
        expect(await saveAll(strategy, [{ ...second.wal, handling: 'copy' }])).toMatchObject([{ outcome: 'stored' }]);
        await handle.close();
        expect(sources).toEqual([first.path, second.path]);
        expect(await readdir(storage.incoming)).toEqual([second.name]);
        expect((await readFile(second.path)).equals(written)).toBe(true);
        for (const { name, bytes } of [first, second]) {
          expect((await plainOf(storage, strategy, name))?.equals(bytes)).toBe(true);
        }
      }));

    test('a claim that was there before stays one, whatever ends the pass: only who made it knows what it is for', () =>
      withStorage(async (storage) => {
        const { wal, name, bytes, path } = await arrive(storage.incoming);
        const claim = join(dirname(storage.incoming), '.claimed', 'incoming', name);
        await mkdir(dirname(claim), { recursive: true, mode: 0o700 });
        await rename(path, claim);
        const error = new WalwardenError('hook', 'the script said stop');
        const aborted = new WalwardenError('aborted', 'we were asked to stop');
        const stops: Partial<WalHooks>[] = [
          { before: async () => ({ outcome: 'stop', reason: '', error }) },
          { before: async () => ({ outcome: 'stop', reason: '', error: aborted }) },
        ];
        const claimed = { ...wal, path: claim, claimed: true };
        for (const hooks of stops) {
          await saveAll(storage.open({ hooks }), [claimed]).catch((reason: unknown) => expect(reason).toBe(error));
          expect(await readdir(dirname(claim))).toEqual([basename(claim)]);
        }
        const drain = new AbortController();
        const before: WalHooks['before'] = async () => {
          drain.abort();
          return { outcome: 'continue', reason: '' };
        };
        const drained = await saveAll(storage.open({ hooks: { before } }), [claimed], { drain: drain.signal });
        expect(drained).toMatchObject([{ outcome: 'changed', wal: { path: claim, claimed: true } }]);
        const accept = async (): Promise<string> => 'it is WAL of another cluster';
        const refused = await saveAll(storage.open({ accept }), [claimed]);
        expect(refused).toMatchObject([{ outcome: 'invalid', wal: { path: claim, claimed: true } }]);
        expect(await readdir(dirname(claim))).toEqual([basename(claim)]);
        expect(await waiting(claim, name)).toMatchObject({ identity: wal.identity });
        const strategy = storage.open();
        expect(await saveAll(strategy, [claimed])).toMatchObject([{ outcome: 'stored' }]);
        expect((await plainOf(storage, strategy, name))?.equals(bytes)).toBe(true);
        expect(await readdir(dirname(claim))).toEqual([]);
      }));
  });
}
