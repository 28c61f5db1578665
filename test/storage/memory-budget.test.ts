import { expect, test } from 'vitest';
import { MemoryBudget } from '../../src/storage/memory-budget.ts';

const MIB = 1024 * 1024;

interface Owner {
  readonly name: string;
}

/** A budget, and who has got what it asked for, in order. */
function budgetOf(files: number) {
  const budget = new MemoryBudget<Owner>(files);
  const got: string[] = [];
  const owners = new Map<string, Owner>();
  const owner = (name: string): Owner => {
    const known = owners.get(name) ?? { name };
    owners.set(name, known);
    return known;
  };
  return {
    got,
    take: async (name: string, mib: number): Promise<void> => {
      await budget.take(owner(name), mib * MIB);
      got.push(name);
    },
    shrink: (name: string, mib: number) => budget.shrink(owner(name), mib * MIB),
  };
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
}

test('what fits is given at once, the rest waits in the order of its asking', async () => {
  const { take, shrink, got } = budgetOf(2);
  const all = ['a', 'b', 'c', 'd'].map((name) => take(name, 16));
  await settle();
  expect(got).toEqual(['a', 'b']);
  shrink('b', 0);
  await settle();
  expect(got).toEqual(['a', 'b', 'c']);
  shrink('a', 4);
  await settle();
  expect(got).toEqual(['a', 'b', 'c']);
  shrink('c', 12);
  await Promise.all(all);
  expect(got).toEqual(['a', 'b', 'c', 'd']);
});

test('what is larger than everything gets it once nobody has any, and small ones do not pass it for ever', async () => {
  const { take, shrink, got } = budgetOf(5);
  const all = [take('a', 16), take('giant', 1024), take('b', 1), take('c', 1)];
  await settle();
  expect(got).toEqual(['a']);
  shrink('a', 0);
  await settle();
  expect(got).toEqual(['a', 'giant']);
  shrink('giant', 100);
  await Promise.all(all);
  expect(got).toEqual(['a', 'giant', 'b', 'c']);
});

test('grows for files of up to 64 MiB, so that they are sent in parallel, too', async () => {
  const { take, got } = budgetOf(5);
  await Promise.all(['a', 'b', 'c', 'd', 'e'].map((name) => take(name, 64)));
  expect(got).toEqual(['a', 'b', 'c', 'd', 'e']);
  void take('f', 1);
  await settle();
  expect(got).not.toContain('f');
});

test('what is given back twice, or never was taken, counts once', async () => {
  const { take, shrink, got } = budgetOf(1);
  await take('a', 16);
  shrink('nobody', 0);
  shrink('a', 0);
  shrink('a', 0);
  await take('b', 16);
  void take('c', 16);
  await settle();
  expect(got).toEqual(['a', 'b']);
});

test('what became larger than it was counts in full', async () => {
  const { take, shrink, got } = budgetOf(2);
  await take('a', 16);
  shrink('a', 20);
  void take('b', 16);
  await settle();
  expect(got).toEqual(['a']);
});

test('an empty file takes nothing, and can be taken again', async () => {
  const { take, shrink, got } = budgetOf(1);
  await take('empty', 0);
  shrink('empty', 0);
  await take('empty', 16);
  shrink('empty', 0);
  await take('a', 16);
  expect(got).toEqual(['empty', 'empty', 'a']);
});
