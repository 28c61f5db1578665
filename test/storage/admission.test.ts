import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { WaitingWal } from '../../src/storage/wal-storage-strategy.ts';
import { arrive, saveAll, withStorage } from './with-storage.ts';

// The first segment that an empty archive admits says whose archive it is from then on.
test('segments are admitted in WAL order, whatever order they are staged in, and though one could not be staged', () =>
  withStorage({}, async ({ incoming, open }) => {
    const wals: WaitingWal[] = [];
    for (const segment of [1, 2, 3]) {
      wals.push((await arrive(incoming, { segment, systemIdentifier: BigInt(segment) })).wal);
    }
    const admitted: bigint[] = [];
    const strategy = open({
      accept: async ({ systemIdentifier }) => {
        admitted.push(systemIdentifier);
        return null;
      },
    });
    let thirdIsStaged = (): void => undefined;
    const afterTheThird = new Promise<void>((resolve) => (thirdIsStaged = resolve));
    const stage = strategy.stage.bind(strategy);
    strategy.concurrency = () => wals.length;
    strategy.stage = async (prepared, expected) => {
      const result = await stage(prepared, expected);
      if (prepared.wal.name === wals[1]?.name) throw new Error('it can not be staged');
      if (prepared.wal.name === wals[2]?.name) {
        thirdIsStaged();
        return result;
      }
      await afterTheThird;
      // Time enough for the third to be admitted, were it not for its turn.
      for (let turns = 0; turns < 10; turns += 1) await turn();
      expect(admitted).toEqual([]);
      return result;
    };
    await expect(saveAll(strategy, wals)).rejects.toThrow('it can not be staged');
    expect(admitted.slice(0, 1)).toEqual([1n]);
  }));
