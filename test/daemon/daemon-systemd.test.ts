import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { ensureBuilt, writeConfig } from '../support/cli.ts';
import { RunningDaemon } from '../support/running-daemon.ts';
import { withHome } from '../support/temp-dir.ts';
import { withListener } from './notify-listener.ts';

beforeAll(ensureBuilt);

it('systemd hears of the daemon’s start, its life, a reload, and its end', () =>
  withHome(async ({ home }) => {
    const socket = join(home, 'notify');
    await withListener(socket, async (messages) => {
      const config = await writeConfig(home, { servers: { main: {} } });
      const env = { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000' };
      const daemon = new RunningDaemon(config, home, { env });
      const told = (name: string, times = 1): Promise<unknown> =>
        daemon.waitsFor(`${name} at systemd`, () => messages.filter((each) => name in each).length >= times);
      try {
        await told('READY');
        // It answers by then.
        expect(await daemon.isUp()).toBe(true);
        expect(messages.find((each) => 'READY' in each)?.['STATUS']).toContain('archives for 1 server');
        await told('WATCHDOG', 2);
        await writeConfig(home, { servers: { main: {}, other: {} } });
        process.kill(daemon.pid, 'SIGHUP');
        await told('RELOADING');
        await told('READY', 2);
        expect(messages.findLast((each) => 'READY' in each)?.['STATUS']).toContain('archives for 2 servers');
        await writeFile(config, 'nothing that can be read');
        process.kill(daemon.pid, 'SIGHUP');
        // A rejected one is the end of a reload as well.
        await told('READY', 3);
        const { body } = await daemon.ask('/metrics');
        expect(body.toString()).toContain('\nwalwarden_config_last_reload_successful 0\n');
        expect(await daemon.stop()).toEqual({ status: 0, signal: null });
        expect(messages.findLastIndex((each) => 'STOPPING' in each)).toBeGreaterThan(
          messages.findLastIndex((each) => 'READY' in each),
        );
      } finally {
        await daemon.dispose();
      }
    });
  }));
