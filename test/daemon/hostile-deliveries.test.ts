import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, test } from 'vitest';
import { withServer, type TestServer } from '../commands/with-server.ts';
import { ensureBuilt } from '../support/cli.ts';
import { makeWal } from '../support/make-wal.ts';
import { descendantsOf } from '../support/processes.ts';
import { withDaemon, type RunningDaemon } from '../support/running-daemon.ts';

beforeAll(ensureBuilt);

const MIB = 1024 * 1024;
const SEGMENT = 16 * MIB;
const BOUND = 250_000_000;

const shell = promisify(execFile);

/** Programs that make little of much. */
const BOMBS = [
  'zstd -q -1 -c',
  // A window of 128 MiB.
  'zstd -q -1 --long=27 -c',
  'gzip -c',
  'bzip2 -c',
  'xz -0 -c',
  'xz --lzma2=preset=0,dict=96MiB -c',
  'lz4 -q -c',
];

/** Files that begin as a segment does, or as nothing does, and never end. */
async function makeBombs(directory: string): Promise<Buffer[]> {
  const bombs: Buffer[] = [];
  const head = join(directory, 'head');
  await writeFile(head, makeWal({ segment: 2, size: SEGMENT }).bytes);
  for (const command of BOMBS) {
    for (const start of [head, '/dev/null']) {
      const script = `{ cat ${start}; head -c ${192 * MIB} /dev/zero; } | ${command} > ${directory}/bomb`;
      await shell('sh', ['-c', script]);
      bombs.push(await readFile(join(directory, 'bomb')));
    }
  }
  return bombs;
}

/** What a daemon and all that it started have in memory of their own, at its peak, while this runs. */
async function peakWhile<T>(daemon: RunningDaemon, work: () => Promise<T>): Promise<{ peak: number; result: T }> {
  let peak = 0;
  const over = new AbortController();
  const watch = async (): Promise<void> => {
    while (!over.signal.aborted) {
      let sum = await residentOf(daemon.pid);
      for (const { pid } of await descendantsOf(daemon.pid)) sum += await residentOf(pid);
      peak = Math.max(peak, sum);
    }
  };
  const watching = watch();
  try {
    const result = await work();
    return { peak: Math.max(peak, await daemon.peakBytes()), result };
  } finally {
    over.abort();
    await watching;
  }
}

/** Each page once: until it has become another program, a child that was just started shares all of its parent's. */
async function residentOf(pid: number): Promise<number> {
  try {
    return Number(/^Pss:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return 0; // it has ended
  }
}

function put(daemon: RunningDaemon, name: string, body: Buffer): Promise<{ status: number }> {
  return daemon.ask(`/servers/main/wal/${name}`, 'PUT', body);
}

async function prepared(server: TestServer, daemon: RunningDaemon): Promise<Buffer[]> {
  const first = makeWal({ segment: 1, size: SEGMENT });
  expect((await put(daemon, first.name, first.bytes)).status).toBe(201);
  return makeBombs(server.home);
}

test('many hostile deliveries at a time take no more than 250 MB', () =>
  withServer({ compression: 'zstd' }, async (server) => {
    await withDaemon(server.config, server.home, async (daemon) => {
      const bombs = await prepared(server, daemon);
      const { peak, result } = await peakWhile(daemon, async () => {
        const statuses: number[] = [];
        for (let round = 0; round < 2; round += 1) {
          const answers = await Promise.all([
            ...bombs.map((bomb) => put(daemon, makeWal({ segment: 2, size: SEGMENT }).name, bomb)),
            ...bombs.map((bomb) => put(daemon, '00000002.history', bomb)),
            ...bombs.map((bomb, index) =>
              writeFile(join(server.incoming, makeWal({ segment: 10 + index, size: SEGMENT }).name), bomb).then(() => ({
                status: 0,
              })),
            ),
          ]);
          statuses.push(...answers.map(({ status }) => status));
        }
        return statuses;
      });
      expect(result.filter((status) => status !== 0 && status !== 422 && status !== 503)).toEqual([]);
      expect(result).toContain(422);
      const good = makeWal({ segment: 2, size: SEGMENT });
      expect((await put(daemon, good.name, good.bytes)).status).toBe(201);
      expect(peak).toBeLessThan(BOUND);
    });
  }));
