import { describe, expect, test } from 'vitest';
import { reset, silence, withApi } from './fake-api.ts';
import { lastLine, messages, stopRecover } from './run-recover.ts';

describe.concurrent.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s', (signal, expected) => {
  test(`between two looks is ${expected} at once, and says which restore goes on`, () =>
    withApi({ operation: () => ({ body: { status: 'IN_PROGRESS' } }) }, async (api) => {
      const words = ['--barman-server=main', '--ssh-command=ssh x', '--loop-wait=86400'];
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('operation') === 1, { words });
      expect(status).toBe(expected);
      // It waited.
      expect(api.count('operation')).toBe(1);
      expect(lastLine(stderr)).toMatchObject({
        operation_id: 'OP1',
        msg: `stopped by ${signal}: recovery operation OP1 goes on at the Barman host; see ${api.url}/servers/main/operations/OP1`,
      });
    }));

  test('in the middle of a look is as well', () =>
    withApi({ operation: silence }, async (api) => {
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('operation') === 1);
      expect(status).toBe(expected);
      expect(lastLine(stderr)['msg']).toContain('recovery operation OP1 goes on at the Barman host');
    }));

  test('between two tries is as well', () =>
    withApi({ operation: () => ({ status: 500 }) }, async (api) => {
      const globals = ['--retry-wait=86400'];
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('operation') === 1, { globals });
      expect(status).toBe(expected);
      expect(api.count('operation')).toBe(1);
      expect(lastLine(stderr)['msg']).toContain('recovery operation OP1 goes on at the Barman host');
    }));

  test('while a restore is asked for says that it may have been begun', () =>
    withApi({ create: silence }, async (api) => {
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('create') === 1);
      expect(status).toBe(expected);
      expect(lastLine(stderr)['msg']).toBe(
        `stopped by ${signal} while a restore was asked for: it may have been begun; see ${api.url}/servers/main/operations`,
      );
    }));

  test('between two looks whether it was begun says so as well', () =>
    withApi({ create: reset }, async (api) => {
      const globals = ['--retry-wait=86400'];
      // The first look was before.
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('list') === 2, { globals });
      expect(status).toBe(expected);
      // It waited.
      expect(api.count('list')).toBe(2);
      expect(lastLine(stderr)['msg']).toContain('while a restore was asked for: it may have been begun');
    }));

  test.each([
    ['right before a restore is asked for', { list: silence }, 'list'],
    ['before it is asked for again', { create: () => ({ status: 503, body: '' }) }, 'create'],
  ] as const)('%s says that none was begun', async (_when, plays, kind) =>
    withApi(plays, async (api) => {
      const globals = ['--retry-wait=86400'];
      const isTime = (log: string): boolean => api.count(kind) === 1 && (kind === 'list' || log.includes('again in'));
      const { status, stderr } = await stopRecover(api.url, signal, isTime, { globals });
      expect(status).toBe(expected);
      expect(lastLine(stderr)['msg']).toBe(`stopped by ${signal} before a restore was begun`);
    }),
  );

  test('before says that nothing was asked for', () =>
    withApi({ status: silence }, async (api) => {
      const { status, stderr } = await stopRecover(api.url, signal, () => api.count('status') === 1);
      expect(status).toBe(expected);
      expect(messages(stderr)).toEqual([`stopped by ${signal} before a restore was asked for`]);
    }));
});

test('without options there are five tries, two seconds apart', () =>
  withApi({ status: () => ({ status: 500 }) }, async (api) => {
    const { stderr } = await stopRecover(api.url, 'SIGTERM', () => api.count('status') === 2, { globals: [] });
    expect(stderr).toContain('(try 1 of 5; again in 2 s)');
  }));
