import { expect, test } from 'vitest';
import { s3Answer, type Fault } from '../../support/fault-proxy.ts';
import { describeS3 } from '../../support/s3.ts';
import { ALWAYS, isPut, listed, noise, throughProxy, withStore } from './with-store.ts';

const NOT_THERE = /it is not there after it was stored$/;

/** Faults that pass: the request, or its repetition, gets through. */
const PASSING: readonly [name: string, fault: Fault][] = [
  ['the connection is reset before the request arrives', { kind: 'reset' }],
  ['the upload is cut', { kind: 'cut-upload', bytes: 40_000 }],
  ['the answer is lost', { kind: 'lose-answer' }],
  ['nothing answers in time', { kind: 'stall' }],
  ['the endpoint answers 500', s3Answer(500, 'InternalError')],
  ['the endpoint answers 503', s3Answer(503, 'SlowDown')],
  ['a proxy on the way answers 502', { kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }],
  ['the bytes are changed on their way', { kind: 'flip-upload', byte: 77_777 }],
];

describeS3('an upload', (server) => {
  test.each(PASSING)('is stored once when %s', (_, fault) =>
    throughProxy(server, async (store, proxy) => {
      const body = noise(100_000);
      proxy.fail(isPut, fault);
      expect(await store.putIfAbsent('k', body)).toEqual({ outcome: 'stored' });
      expect((await store.get('k'))?.bytes.equals(body)).toBe(true);
      expect(await listed(store, '')).toEqual({ k: 100_000 });
    }),
  );

  test('whose answers are all lost is looked for, and found', () =>
    throughProxy(server, async (store, proxy) => {
      proxy.fail(isPut, { kind: 'lose-answer' }, ALWAYS);
      expect(await store.putIfAbsent('k', noise(1000))).toEqual({ outcome: 'stored' });
    }));

  test('that was stored though nobody could tell is met again as what it is', () =>
    throughProxy(server, async (store, proxy) => {
      const body = noise(1000);
      proxy.fail(isPut, { kind: 'lose-answer' });
      proxy.fail(() => proxy.seen.some(isPut), { kind: 'reset' }, ALWAYS);
      await expect(store.putIfAbsent('k', body, { metadata: { a: 'b' } })).rejects.toMatchObject({
        failure: 'unreachable',
      });
      proxy.heal();
      expect(await store.putIfAbsent('k', body)).toMatchObject({ outcome: 'exists', object: { metadata: { a: 'b' } } });
    }));
});

describeS3(
  'an upload that never gets through',
  (server) => {
    test.each<[string, Fault, string, RegExp]>([
      ['resets', { kind: 'reset' }, 'unreachable', /http:\S+ cut the connection \(ECONNRESET\), tried 3 times$/],
      [
        'cuts',
        { kind: 'cut-upload', bytes: 10 },
        'unreachable',
        /http:\S+ cut the connection \((?:ECONNRESET|EPIPE)\)/,
      ],
      ['silence', { kind: 'stall' }, 'timeout', /no answer from http:\S+ for \S+ \S+, tried 3 times$/],
      [
        '500',
        s3Answer(500, 'InternalError', 'oh'),
        'server',
        /the endpoint failed \(500 InternalError: oh, request id tx0\)/,
      ],
      ['503', s3Answer(503, 'SlowDown'), 'busy', /slow down \(503 SlowDown, request id tx0\), tried 3 times$/],
      [
        'conflicts',
        s3Answer(409, 'ConditionalRequestConflict'),
        'busy',
        /slow down \(409 ConditionalRequestConflict\)$/,
      ],
      [
        'its size',
        s3Answer(400, 'EntityTooLarge'),
        'too-large',
        /takes no objects of this size \(400 EntityTooLarge\)$/,
      ],
      ['a quota', s3Answer(403, 'QuotaExceeded'), 'full', /there is no space left \(403 QuotaExceeded\)$/],
      ['its headers', s3Answer(501, 'NotImplemented'), 'refused', /refuses the request \(501 NotImplemented/],
      ['an empty page', { kind: 'answer', status: 200, body: '' }, 'not-s3', NOT_THERE],
      ['a login page', { kind: 'answer', status: 200, body: '<html>Log in!</html>' }, 'not-s3', NOT_THERE],
    ])('because of %s is an error, and nothing lies there', (_, fault, failure, message) =>
      throughProxy(server, async (store, proxy) => {
        proxy.fail(isPut, fault, ALWAYS);
        const error = { code: 'storage', failure, message: expect.stringMatching(message) };
        await expect(store.putIfAbsent('k', noise(1000))).rejects.toMatchObject(error);
        proxy.heal();
        expect(await store.head('k')).toBeNull();
      }),
    );
  },
  ['rgw'],
);

describeS3(
  'two writers of one key',
  (server) => {
    test('store it once, a hundred times, and both know who did', () =>
      server.withBucket((s3) =>
        withStore(s3, {}, (one) =>
          withStore(s3, {}, async (other) => {
            const race = async (key: string): Promise<void> => {
              const bodies = [noise(2000), noise(2000)] as const;
              const outcomes = await Promise.all([one.putIfAbsent(key, bodies[0]), other.putIfAbsent(key, bodies[1])]);
              const winner = outcomes.findIndex(({ outcome }) => outcome === 'stored');
              expect(outcomes.map(({ outcome }) => outcome).sort()).toEqual(['exists', 'stored']);
              expect((await one.get(key))?.bytes.equals(bodies[winner] ?? Buffer.alloc(0))).toBe(true);
            };
            for (let round = 0; round < 10; round++) {
              await Promise.all(Array.from({ length: 10 }, (_, index) => race(`${round}/${index}`)));
            }
          }),
        ),
      ));

    test('are told apart though an answer is lost', () =>
      throughProxy(server, async (store, proxy, s3) => {
        await withStore(s3, {}, async (other) => {
          // Ours arrives and its answer is lost; theirs finds it; our repetition meets our own object.
          const body = noise(1000);
          proxy.fail(isPut, { kind: 'lose-answer' });
          expect(await store.putIfAbsent('ours', body)).toEqual({ outcome: 'stored' });
          expect(await other.putIfAbsent('ours', body)).toMatchObject({ outcome: 'exists' });
          // Theirs is there before; our first attempt is lost, the repetition meets theirs.
          await other.putIfAbsent('theirs', body);
          proxy.fail(isPut, { kind: 'lose-answer' });
          expect(await store.putIfAbsent('theirs', body)).toMatchObject({ outcome: 'exists' });
        });
      }));
  },
  ['rgw'],
);
