import { describe, expect, test } from 'vitest';
import { Turns, type Turn, type TurnLimits } from '../../../src/daemon/http/turns.ts';

const LIMITS: TurnLimits = { each: 2, together: 4, waiting: 3 };
const stays = new AbortController().signal;

/** Takes turns and keeps them; `got` has who did get one. */
function takers(limits: Partial<TurnLimits> = {}) {
  const turns = new Turns({ ...LIMITS, ...limits });
  const got: string[] = [];
  const held = new Map<string, Turn>();
  const failed = new Map<string, unknown>();
  const take = async (server: string, id: string, size = 1, gone: AbortSignal = stays): Promise<void> => {
    try {
      held.set(id, await turns.take(server, size, gone));
      got.push(id);
    } catch (error) {
      failed.set(id, error);
    }
  };
  const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  return { turns, got, held, failed, take: (...args: Parameters<typeof take>) => void take(...args), settled };
}

describe('turns of servers', () => {
  test('are given to each in order, so many at a time', async () => {
    const { take, got, held, settled } = takers();
    for (const id of ['a1', 'a2', 'a3', 'a4']) take('a', id);
    await settled();
    expect(got).toEqual(['a1', 'a2']);
    held.get('a2')?.end();
    await settled();
    expect(got).toEqual(['a1', 'a2', 'a3']);
    // Once is enough.
    held.get('a2')?.end();
    await settled();
    expect(got).toHaveLength(3);
    held.get('a1')?.end();
    await settled();
    expect(got).toEqual(['a1', 'a2', 'a3', 'a4']);
  });

  test('are bounded for all together, but who has nothing is never kept out by others', async () => {
    const { take, got, held, settled } = takers();
    for (const server of ['a', 'b', 'c', 'd']) for (const id of ['1', '2']) take(server, server + id);
    await settled();
    expect(got).toEqual(['a1', 'a2', 'b1', 'b2', 'c1', 'd1']);
    // One of those in excess goes, and then one of the others.
    held.get('c1')?.end();
    await settled();
    expect(got.slice(6)).toEqual(['c2']);
    held.get('a1')?.end();
    held.get('a2')?.end();
    await settled();
    expect(got.slice(6)).toEqual(['c2']);
    held.get('b1')?.end();
    await settled();
    expect(got.slice(6)).toEqual(['c2', 'd2']);
  });

  test('a queue that is full sends the next one away, of this server only', async () => {
    const { take, got, failed, settled } = takers();
    for (const id of ['a1', 'a2', 'a3', 'a4', 'a5', 'a6']) take('a', id);
    take('b', 'b1');
    await settled();
    expect(got).toEqual(['a1', 'a2', 'b1']);
    expect([...failed.keys()]).toEqual(['a6']);
    expect(failed.get('a6')).toMatchObject({
      status: 503,
      code: 'busy',
      message: '3 requests of server a wait already',
      hint: expect.stringContaining('ask again'),
    });
  });

  test('whoever goes away leaves its place in the queue to others', async () => {
    const { take, got, held, failed, settled } = takers();
    const client = new AbortController();
    take('a', 'a1');
    take('a', 'a2');
    take('a', 'gone', 1, client.signal);
    take('a', 'a3');
    take('a', 'a4');
    client.abort();
    take('a', 'a5');
    take('a', 'gone before', 1, client.signal);
    await settled();
    expect([...failed.keys()].sort()).toEqual(['gone', 'gone before']);
    expect(failed.get('gone')).toMatchObject({ status: 503, code: 'aborted' });
    held.get('a1')?.end();
    held.get('a2')?.end();
    await settled();
    expect(got).toEqual(['a1', 'a2', 'a3', 'a4']);
  });

  test('what is too large for ever is let in alone, and a smaller one behind it when it gives up', async () => {
    const { take, got, held, settled } = takers();
    const client = new AbortController();
    take('a', 'large', 100);
    await settled();
    held.get('large')?.resize(1);
    take('a', 'larger', 100, client.signal);
    take('a', 'small');
    await settled();
    expect(got).toEqual(['large']);
    client.abort();
    await settled();
    expect(got).toEqual(['large', 'small']);
  });

  test('work ends its turn, however it goes', async () => {
    const { turns } = takers({ each: 1 });
    await expect(turns.run('a', stays, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await turns.run('a', stays, async () => 'done')).toBe('done');
    const client = new AbortController();
    const inside = turns.run('a', client.signal, async () => {
      client.abort();
      return 'done all the same';
    });
    expect(await inside).toBe('done all the same');
  });
});
