import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { processesWithEnv } from '../support/processes.ts';
import { withFaultHome } from './fault-home.ts';

const MARK = 'SECOND_SIGNAL_TEST_MARK';

test('a second signal ends the compressors of worker threads too, with all that they started', () =>
  withFaultHome(
    {
      compression: 'custom',
      custom_compression_filter: 'sleep 1000 | cat',
      custom_decompression_filter: 'cat',
      archiver_workers: 2,
    },
    async (home) => {
      await home.deliverSegments(1, 4);
      await ensureBuilt();
      const mark = randomUUID();
      const commandsOf = async (): Promise<string[]> =>
        (await processesWithEnv(MARK, mark)).map(({ command }) => command).sort();
      const pass = spawn(process.execPath, [CLI, '-c', home.config, 'archive-wal', 'main'], {
        env: { ...process.env, [MARK]: mark },
        stdio: 'ignore',
      });
      const ended = once(pass, 'close');
      try {
        await until('both threads to compress', async () => {
          const commands = await commandsOf();
          return commands.filter((command) => command === 'sleep').length === 2;
        });
        // Two of a kind could arrive as one.
        pass.kill('SIGTERM');
        pass.kill('SIGINT');
        await ended;
        expect([130, 143]).toContain(pass.exitCode);
        await until('the compressors to go', async () => (await commandsOf()).length === 0);
        expect(await home.violations('crashed')).toEqual([]);
      } finally {
        pass.kill('SIGKILL');
        await ended;
      }
    },
  ));
