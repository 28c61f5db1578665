import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { connectServiceManager } from '../../src/daemon/systemd.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { until } from '../support/poll.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { withListener } from './notify-listener.ts';

interface Logged {
  readonly msg: string;
}

function collect(): { readonly logger: ReturnType<typeof pino>; readonly logged: readonly Logged[] } {
  const logged: Logged[] = [];
  return { logger: pino({ base: null }, { write: (line) => logged.push(JSON.parse(line)) }), logged };
}

const environment = (more: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({ PATH: process.env['PATH'], ...more });

describe('a service manager', () => {
  it.each([
    ['at a path', (directory: string) => join(directory, 'notify')],
    ['with an abstract name', () => `@walwarden-test-${process.pid}`],
  ])('%s is told what happens, in its order', (_where, socketIn) =>
    withTempDir(async (directory) => {
      const socket = socketIn(directory);
      await withListener(socket, async (messages) => {
        const { logger, logged } = collect();
        const manager = connectServiceManager(logger, environment({ NOTIFY_SOCKET: socket }));
        const before = process.hrtime.bigint() / 1000n;
        await Promise.all([
          manager.ready('3 servers'),
          manager.reloading(),
          manager.ready('4 servers'),
          manager.status('main:\n archiving'),
          manager.stopping(),
        ]);
        await manager.close();
        await until('all to arrive', () => messages.length === 5);
        const [, reloading] = messages;
        const usec = BigInt(reloading?.['MONOTONIC_USEC'] ?? 0);
        expect(usec).toBeGreaterThanOrEqual(before);
        expect(messages).toEqual([
          { READY: '1', STATUS: '3 servers' },
          { RELOADING: '1', MONOTONIC_USEC: String(usec) },
          { READY: '1', STATUS: '4 servers' },
          { STATUS: 'main: archiving' },
          { STOPPING: '1' },
        ]);
        expect(logged).toEqual([]);
      });
    }),
  );

  it.each([
    ['of whoever was started', {}],
    ['of this process', { WATCHDOG_PID: String(process.pid) }],
  ])('that keeps a watchdog %s hears a heartbeat until it is closed', (_whose, more) =>
    withTempDir(async (directory) => {
      const socket = join(directory, 'notify');
      await withListener(socket, async (messages) => {
        const env = environment({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '20000', ...more });
        const manager = connectServiceManager(collect().logger, env);
        await until('three beats', () => messages.filter((each) => each['WATCHDOG'] === '1').length >= 3);
        await manager.close();
        // Datagrams keep their order: what was sent before it was closed is heard before this.
        await manager.stopping();
        // Ten beats' time. A slow machine makes it longer, which can't let a beat go unseen.
        await delay(100);
        await manager.status('over');
        await until('the last word', () => messages.some((each) => each['STATUS'] === 'over'));
        const closed = messages.findIndex((each) => each['STOPPING'] === '1');
        expect(messages.slice(closed)).toEqual([{ STOPPING: '1' }, { STATUS: 'over' }]);
      });
    }),
  );

  it('that keeps a watchdog of another process hears none', () =>
    withTempDir(async (directory) => {
      const socket = join(directory, 'notify');
      await withListener(socket, async (messages) => {
        const env = environment({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '2000', WATCHDOG_PID: '1' });
        const manager = connectServiceManager(collect().logger, env);
        for (let times = 0; times < 5; times += 1) await manager.status('working');
        await manager.close();
        await until('all to arrive', () => messages.length === 5);
        expect(messages.every((each) => 'STATUS' in each)).toBe(true);
      });
    }));

  it('is not spoken to in our place by what we start', () => {
    const env = environment({ NOTIFY_SOCKET: '/nowhere', WATCHDOG_USEC: '0', WATCHDOG_PID: '1' });
    connectServiceManager(collect().logger, env);
    expect(Object.keys(env)).toEqual(['PATH']);
  });

  it('that does not take a message keeps us for five seconds at most, and is told of once', () =>
    withTempDir(async (directory) => {
      const socket = join(directory, 'notify');
      const work = async (): Promise<void> => {
        const { logger, logged } = collect();
        const manager = connectServiceManager(logger, environment({ NOTIFY_SOCKET: socket }));
        await manager.ready('here');
        await manager.close();
        expect(logged.map(({ msg }) => msg)).toEqual([
          expect.stringMatching(/systemd-notify (gave no answer within 5 s|ended with status 1: )/),
        ]);
      };
      await withListener(socket, work, 'deaf');
    }));

  it('that is gone is no failure, and is told of once', async () => {
    const { logger, logged } = collect();
    const manager = connectServiceManager(logger, environment({ NOTIFY_SOCKET: '/nowhere/notify' }));
    await manager.ready('here');
    await manager.stopping();
    await manager.close();
    expect(logged.map(({ msg }) => msg)).toEqual([expect.stringContaining('systemd-notify ended with status 1')]);
  });

  it('is not told anything without the program for it, which is told once', () =>
    withTempDir(async (directory) => {
      const { logger, logged } = collect();
      const manager = connectServiceManager(logger, { PATH: directory, NOTIFY_SOCKET: '/nowhere/notify' });
      await manager.ready('here');
      await manager.stopping();
      await manager.close();
      expect(logged.map(({ msg }) => msg)).toEqual([
        "systemd can't be told how we are: the program systemd-notify is not in PATH; install package systemd; with Type=notify it may end this service",
      ]);
    }));

  it('is not there where none started us: nothing is run', () =>
    withTempDir(async (directory) => {
      const mark = join(directory, 'ran');
      await writeFile(join(directory, 'systemd-notify'), `#!/bin/sh\necho "$@" >>${mark}\n`);
      await chmod(join(directory, 'systemd-notify'), 0o755);
      const env = { PATH: `${directory}:${process.env['PATH'] ?? ''}` };
      const all = async (more: NodeJS.ProcessEnv): Promise<void> => {
        const manager = connectServiceManager(collect().logger, { ...env, ...more });
        await manager.ready('here');
        await manager.reloading();
        await manager.status('working');
        await manager.stopping();
        await manager.close();
      };
      await all({ WATCHDOG_USEC: '1000' });
      expect(await isThere(mark)).toBe(false);
      await all({ NOTIFY_SOCKET: '/run/systemd/notify' });
      expect((await readFile(mark, 'utf8')).split('\n')).toHaveLength(5);
    }));
});
