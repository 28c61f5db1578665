import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { startReceiver, type ReceiverProcess } from '../../src/receiver/receiver-process.ts';
import { until } from '../support/poll.ts';
import { descendantsOf, killIfThere } from '../support/processes.ts';

/** What a shell script does in place of pg_receivewal, whose refusals can't be had at will. */
function startScript(script: string): { child: ReceiverProcess; lines: string[] } {
  const lines: string[] = [];
  const child = startReceiver('/bin/sh', ['-c', script], process.env, (line) => lines.push(line));
  return { child, lines };
}

const never = new AbortController().signal;

test('what it writes arrives line by line, all of it before its end is told', async () => {
  const { child, lines } = startScript('echo one; echo two >&2; printf three; exit 3');
  expect(await child.ended).toEqual({ how: 'exited', status: 3 });
  expect(lines.sort()).toEqual(['one', 'three', 'two']);
});

test('it is asked to end with SIGINT', async () => {
  const { child, lines } = startScript(`trap 'echo asked; exit 0' INT; echo ready; while :; do sleep 0.05; done`);
  await until('the script to begin', () => lines.includes('ready'));
  expect(await child.stop(10_000, never)).toBe(false);
  expect(await child.ended).toEqual({ how: 'exited', status: 0 });
  expect(lines).toEqual(['ready', 'asked']);
});

test('it is killed when it does not end in time', async () => {
  const { child, lines } = startScript(`trap '' INT; echo ready; while :; do sleep 0.05; done`);
  await until('the script to begin', () => lines.includes('ready'));
  expect(await child.stop(200, never)).toBe(true);
  expect(await child.ended).toEqual({ how: 'killed', signal: 'SIGKILL' });
});

test('it is killed at once when nobody wants to wait', async () => {
  const { child, lines } = startScript(`trap '' INT; echo ready; while :; do sleep 0.05; done`);
  await until('the script to begin', () => lines.includes('ready'));
  const kill = new AbortController();
  const stopped = child.stop(3_600_000, kill.signal);
  await delay(0);
  kill.abort();
  expect(await stopped).toBe(true);
  const another = startScript(`trap '' INT; echo ready; while :; do sleep 0.05; done`);
  await until('the script to begin', () => another.lines.includes('ready'));
  expect(await another.child.stop(3_600_000, kill.signal)).toBe(true);
});

test('stopping what has ended is no error', async () => {
  const { child } = startScript('exit 1');
  await child.ended;
  expect(await child.stop(10_000, never)).toBe(false);
});

test('an end from outside is told with its signal', async () => {
  const { child, lines } = startScript('echo ready; while :; do sleep 0.05; done');
  await until('the script to begin', () => lines.includes('ready'));
  if (child.pid !== undefined) killIfThere(child.pid, 'SIGKILL');
  expect(await child.ended).toEqual({ how: 'killed', signal: 'SIGKILL' });
});

test('a program that is not there ends with the status of the shell, and says why', async () => {
  const lines: string[] = [];
  const child = startReceiver('/no/such/pg_receivewal', [], process.env, (line) => lines.push(line));
  expect(await child.ended).toEqual({ how: 'exited', status: 127 });
  expect(lines.join()).toContain('/no/such/pg_receivewal');
});

test('without setpriv nothing is started, and the package to install is named', async () => {
  const child = startReceiver('/bin/true', [], { PATH: '/nowhere' }, () => undefined);
  expect(child.pid).toBeUndefined();
  expect(await child.ended).toMatchObject({
    how: 'not-started',
    missing: true,
    why: expect.stringContaining('setpriv'),
  });
  expect(await child.stop(10_000, never)).toBe(false);
});

test('what a wrapper started instead of becoming it goes with the wrapper', async () => {
  const { child, lines } = startScript(`sleep 1000 & echo ready; wait`);
  await until('the script to begin', () => lines.includes('ready'));
  const pid = child.pid ?? 0;
  // The shell says so before its child has become sleep.
  const sleeper = await until('the sleeper', async () =>
    (await descendantsOf(pid)).find(({ command }) => command === 'sleep'),
  );
  killIfThere(pid, 'SIGKILL');
  await child.ended;
  await until('the sleeper to go', async () => {
    const left = await descendantsOf(process.pid);
    return !left.some((other) => other.pid === sleeper.pid);
  });
});

test('it leads a session of its own, out of reach of our terminal', async () => {
  const { child, lines } = startScript('ps -o sid= -p $$');
  await child.ended;
  expect(Number(lines[0])).toBe(child.pid);
});
