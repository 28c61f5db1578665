import { expect, test } from 'vitest';
import { oneByOne } from '../../../src/daemon/http/one-by-one.ts';

test('what has the same key is done one after the other, also after a failure; what has another key is not kept', async () => {
  const events: string[] = [];
  let release = (): void => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  const first = oneByOne('a', async () => {
    events.push('first');
    await gate;
    throw new Error('failed');
  });
  const failed = expect(first).rejects.toThrow('failed');
  const second = oneByOne('a', async () => void events.push('second'));
  const third = oneByOne('a', async () => void events.push('third'));
  await oneByOne('b', async () => void events.push('other'));
  expect(events).toEqual(['first', 'other']);
  release();
  await failed;
  await Promise.all([second, third]);
  expect(events).toEqual(['first', 'other', 'second', 'third']);
});
