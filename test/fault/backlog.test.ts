import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { segmentName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { withFaultHome } from './fault-home.ts';
import { readTrace, requireStrace, runTraced } from './strace.ts';

beforeAll(requireStrace);

const WAITING = 20_000;
const SEGMENT_SIZE = 1n << 20n;
/** A commit group, and what is looked at and staged ahead of it. */
const AHEAD = 64;

test('the first of many waiting files is archived after a look at a group of them, not at all', () =>
  withFaultHome({ archiver_workers: 0 }, async ({ home, config }) => {
    // All valid, and sparse behind their first page.
    const page = makeWal({ content: 'zeros' }).bytes.subarray(0, 8192);
    for (let segment = 1; segment <= WAITING; segment += 1) {
      page.writeBigUInt64LE(BigInt(segment) * SEGMENT_SIZE, 8);
      const name = segmentName(1, BigInt(segment), Number(SEGMENT_SIZE));
      const fd = openSync(join(home.incoming, name), 'w', 0o600);
      writeSync(fd, page);
      ftruncateSync(fd, Number(SEGMENT_SIZE));
      closeSync(fd);
    }
    const output = join(home.home, 'trace');
    const final = join(home.wals, '0000000100000000', makeWal({ segment: 1, content: 'zeros' }).name);
    const { signal } = await runTraced({
      config,
      args: ['archive-wal', 'main'],
      syscalls: ['openat', 'link'],
      // The first link is that of identity.json.
      inject: ['link:signal=SIGKILL:when=2'],
      output,
    });
    expect(signal).toBe('SIGKILL');
    const calls = await readTrace(output);
    expect(calls.at(-1)?.paths).toContain(final);
    const opened = calls.flatMap(({ name, paths }) => (name === 'openat' ? paths : []));
    const files = new Set(opened.filter((path) => path.startsWith(`${home.incoming}/`)).map((path) => path.slice(-24)));
    expect(files.size).toBeGreaterThan(0);
    expect(files.size).toBeLessThanOrEqual(AHEAD);
  }));
