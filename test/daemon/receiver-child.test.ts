import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { ReceiverChild } from '../../src/daemon/receiver-child.ts';
import { writeReceiverReport } from '../../src/receiver/receiver-report.ts';
import { until } from '../support/poll.ts';
import { killIfThere } from '../support/processes.ts';
import { withTempDir } from '../support/temp-dir.ts';

interface Logged {
  readonly level: number;
  readonly msg: string;
}

/** Keeps a script running in place of receive-wal, until `body` has seen enough. */
async function withChild(
  script: string,
  options: { readonly synchronous: boolean },
  body: (logged: readonly Logged[], child: ReceiverChild, directory: string) => Promise<void>,
): Promise<void> {
  await withTempDir(async (directory) => {
    const reportPath = join(directory, 'main', '.receive-wal.json');
    await mkdir(dirname(reportPath));
    await writeReceiverReport(reportPath, {
      pid: 1,
      state: 'waiting',
      since: 0,
      startedAt: 0,
      lastStreamed: null,
      restarts: 0,
      stalls: 0,
      lastStall: null,
      cause: null,
      retryAt: null,
      slotName: null,
      withoutSlotUntil: null,
      synchronous: options.synchronous,
      program: null,
    });
    const logged: Logged[] = [];
    const lockPath = join(directory, '.main-receive-wal.lock');
    const child = new ReceiverChild({
      server: 'main',
      command: ['bash', '-c', script, lockPath],
      lockPath,
      reportPath,
      onLine: () => {},
      onRestart: () => {},
      logger: pino({ level: 'info', base: null }, { write: (line) => logged.push(JSON.parse(line)) }),
    });
    const drain = new AbortController();
    const kill = new AbortController();
    const running = child.run(drain.signal, kill.signal);
    try {
      await body(logged, child, directory);
    } finally {
      drain.abort();
      kill.abort();
      await running;
    }
  });
}

test('a receive-wal that does not stay up is started again every second where commits wait for it', () =>
  withChild('exit 3', { synchronous: true }, async (logged) => {
    const ends = await until('five ends', () => {
      const errors = logged.filter(({ level }) => level === 50).map(({ msg }) => msg);
      return errors.length >= 5 && errors;
    });
    const text = 'receive-wal of main ended with exit status 3, see its messages; it is started again in 1 s';
    expect(new Set(ends)).toEqual(new Set([text]));
  }));

/** Leaves behind what has the lock, in a session of its own, and fails as receive-wal does then. */
const BUSY = `
  exec 9>>"$0"; flock -n 9 || exit 1
  setsid sleep 300 &
  echo $! > "$0"
  while [ "$(cut -d' ' -f6 /proc/$!/stat)" != $! ]; do sleep 0.02; done
  exit 1`;

test('one that finds another at work is no failure: that one is left alone', () =>
  withChild(BUSY, { synchronous: false }, async (logged, child, directory) => {
    try {
      await until('it to give way', () => child.state.state === 'elsewhere');
      expect(logged.filter(({ level }) => level >= 40)).toEqual([]);
      expect(logged.at(-1)?.msg).toMatch(/^another receive-wal process \(\d+\) runs for main already$/);
    } finally {
      const holder = Number(await readFile(join(directory, '.main-receive-wal.lock'), 'utf8'));
      if (holder > 0) killIfThere(holder, 'SIGKILL');
    }
  }));
