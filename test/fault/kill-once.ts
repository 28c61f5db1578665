import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { CLI } from '../support/cli.ts';
import type { FaultHome } from './fault-home.ts';

/** Starts a pass and kills it after so many milliseconds; true when it was killed before its end. */
export async function killOnce({ config, home }: FaultHome, afterMs: number): Promise<boolean> {
  const child = spawn(process.execPath, [CLI, '-q', '-c', config, 'archive-wal', 'main'], {
    cwd: home.home,
    stdio: 'ignore',
  });
  const ended = once(child, 'close');
  await Promise.race([delay(afterMs), ended]);
  child.kill('SIGKILL');
  const [, signal] = await ended;
  return signal === 'SIGKILL';
}
