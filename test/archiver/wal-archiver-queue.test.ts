import { expect, test } from 'vitest';
import type { Inspection } from '../../src/archiver/waiting-directory.ts';
import { WalArchiverQueue } from '../../src/archiver/wal-archiver-queue.ts';
import { segmentName, type WalName } from '../../src/wal/wal-name.ts';

const SIZE = 1024 * 1024;
const names = (count: number): WalName[] => Array.from({ length: count }, (_, at) => segmentName(1, BigInt(at), SIZE));

const ready = (name: WalName): Inspection => ({
  state: 'ready',
  wal: {
    name,
    path: `/incoming/${name}`,
    identity: { dev: 1n, ino: 1n, size: BigInt(SIZE), mtimeNs: 0n },
    claimed: false,
    claimTo: null,
    changedMs: 0,
    plain: true,
  },
});

async function take(queue: WalArchiverQueue, limit = Number.POSITIVE_INFINITY): Promise<WalName[]> {
  const taken: WalName[] = [];
  for await (const { name } of queue) {
    taken.push(name);
    if (taken.length === limit) break;
  }
  return taken;
}

test('looks at a file only when it is taken, however many wait', async () => {
  const looked: WalName[] = [];
  const waiting = names(100_000);
  const inspect = async (name: WalName): Promise<Inspection> => {
    looked.push(name);
    return ready(name);
  };
  const queue = new WalArchiverQueue({ names: waiting, inspect });
  expect(await take(queue, 3)).toEqual(waiting.slice(0, 3));
  expect(looked).toEqual(waiting.slice(0, 3));
});

test('without a batch size takes all, in the order given', async () => {
  const waiting = names(5);
  const queue = new WalArchiverQueue({ names: waiting, inspect: async (name) => ready(name) });
  expect(queue).toMatchObject({ batchSize: 0, totalSize: 5, runSize: 5 });
  expect(await take(queue)).toEqual(waiting);
});

test('a batch size limits what is taken; files that can not be archived do not count', async () => {
  const waiting = names(6);
  const [odd, gone, first, second] = waiting;
  const inspect = async (name: WalName): Promise<Inspection> => {
    if (name === odd) return { state: 'incomplete', reason: 'short', changedMs: 7 };
    return name === gone ? { state: 'gone' } : ready(name);
  };
  const queue = new WalArchiverQueue({ names: waiting, inspect, batchSize: 2 });
  expect(queue).toMatchObject({ batchSize: 2, totalSize: 6, runSize: 2 });
  expect(await take(queue)).toEqual([first, second]);
  expect(queue.incomplete).toMatchObject([{ entry: odd, reason: 'short', changedMs: 7 }]);
});

test('a batch larger than what waits is no more than that', () => {
  const queue = new WalArchiverQueue({ names: names(2), inspect: async (name) => ready(name), batchSize: 10 });
  expect(queue.runSize).toBe(2);
});

test('tells errors, incomplete, failed and skipped files apart', async () => {
  const [garbage = '', growing = '', unreadable = '', good = ''] = names(4);
  const inspect = async (name: WalName): Promise<Inspection> => {
    if (name === garbage) return { state: 'unknown', reason: 'no WAL', changedMs: 0 };
    if (name === growing) return { state: 'incomplete', reason: 'short', changedMs: 0 };
    return name === unreadable ? { state: 'failed', reason: 'EIO', changedMs: 0 } : ready(name);
  };
  const queue = new WalArchiverQueue({ names: names(4), inspect, unknown: ['readme'], skip: ['x.tmp'] });
  expect(queue.errors).toMatchObject([{ entry: 'readme' }]);
  expect(await take(queue)).toEqual([good]);
  expect(queue.errors.map(({ entry }) => entry)).toEqual(['readme', garbage]);
  expect(queue.incomplete.map(({ entry }) => entry)).toEqual([growing]);
  expect(queue.failed.map(({ entry }) => entry)).toEqual([unreadable]);
  expect(queue.skip).toEqual(['x.tmp']);
});
