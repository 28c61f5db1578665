import { spawn, type ChildProcess } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { configured, namesIn } from '../../commands/with-server.ts';
import { requireStrace } from '../../fault/strace.ts';
import { makeWal } from '../../support/make-wal.ts';
import { until } from '../../support/poll.ts';
import { withDaemon } from '../../support/running-daemon.ts';
import { withHome } from '../../support/temp-dir.ts';

beforeAll(requireStrace);

/** Makes a process one whose file system has no hard links, and takes its time to rename a file. */
async function withoutHardLinks<T>(pid: number, body: () => Promise<T>): Promise<T> {
  const calls = ['?link', 'linkat', '?rename', '?renameat', 'renameat2'];
  const faults = ['?link,linkat:error=EPERM', '?rename,?renameat,renameat2:delay_enter=1s'];
  const expressions = [`trace=${calls.join(',')}`, 'signal=none', ...faults.map((fault) => `inject=${fault}`)];
  const args = expressions.flatMap((expression) => ['-e', expression]);
  const strace = spawn('strace', ['-f', '-o', '/dev/null', ...args, '-p', String(pid)]);
  let said = '';
  strace.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  try {
    await until('strace to attach', () => {
      if (strace.exitCode !== null) throw new Error(`strace: ${said}`);
      return /attached/.test(said);
    });
    return await body();
  } finally {
    await end(strace);
  }
}

/** Detaches. */
async function end(strace: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => strace.once('close', resolve));
  if (strace.exitCode === null && strace.signalCode === null) {
    strace.kill('SIGINT');
    await ended;
  }
}

test('two files of one name at the same time, where there are no hard links: one is stored, the other is a conflict', () =>
  withHome(async (home) => {
    const { config, errors } = await configured(home, { archiver: 'on' });
    await withDaemon(config, home.home, async (daemon) => {
      const one = makeWal({ segment: 1 });
      const other = makeWal({ segment: 1, seed: 99 });
      const path = `/servers/main/wal/${one.name}`;
      const answers = await withoutHardLinks(daemon.pid, () =>
        Promise.all([one, other].map(({ bytes }) => daemon.ask(path, 'PUT', bytes))),
      );
      expect(answers.map(({ status }) => status).sort((a, b) => a - b)).toEqual([201, 409]);
      const winner = answers[0]?.status === 201 ? one : other;
      expect((await daemon.ask(path)).body.equals(winner.bytes)).toBe(true);
      expect(await namesIn(errors)).toHaveLength(1);
      expect(await readdir(join(home.home, 'main', 'incoming'))).not.toContainEqual(expect.stringMatching(/^\.\d/));
    });
  }));
