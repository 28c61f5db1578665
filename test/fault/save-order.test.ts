import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { walDirectory, type WalName } from '../../src/wal/wal-name.ts';
import {
  backupLabel,
  CONFIGURATIONS,
  STREAMING,
  streamAfterPromotion,
  withConfiguration,
  withFaultHome,
  type FaultHome,
} from './fault-home.ts';
import { readTrace, requireStrace, runTraced, type Call } from './strace.ts';

beforeAll(requireStrace);

const SYSCALLS = ['openat', 'write', 'pwrite64', 'fsync', 'fdatasync', 'link', 'unlink', 'rename', 'fchmod', 'mkdir'];
const isSync = ({ name, ok }: Call): boolean => ok && (name === 'fsync' || name === 'fdatasync');

describe.each(CONFIGURATIONS)('the order of system calls, %s', (configuration) => {
  test('is, for every file: its bytes durable, linked, its name durable, its line durable, its source removed', () =>
    withConfiguration(configuration, (options) =>
      withFaultHome({ ...options, archiver_workers: 0 }, async (fault) => {
        // More than one commit group.
        await fault.deliverSegments(1, 20);
        const label = backupLabel(3);
        await fault.deliver(label.name, label.content);
        const output = join(fault.home.home, 'trace');
        const result = await runTraced({
          config: fault.config,
          args: ['archive-wal', 'main'],
          syscalls: SYSCALLS,
          output,
        });
        expect(result).toMatchObject({ status: 0, stderr: '' });
        const calls = await readTrace(output);
        for (const name of fault.produced.keys()) expect(orderOf(calls, fault, name)).toEqual(IN_ORDER);
        expect(await fault.violations('healed')).toEqual([]);

        const syncs = calls.filter(isSync).map(({ paths: [path = ''] }) => path);
        const ofFiles = syncs.filter((path) => /\/[0-9A-F]{24}[^/]*$/.test(path));
        expect(ofFiles.length).toBe(fault.produced.size);
        // A group has one fsync of the catalogue; a machine that takes long to stage has more groups.
        const catalogue = join(fault.home.wals, 'main-xlog.db');
        const groups = syncs.filter((path) => path === catalogue).length;
        // A group: archive directory, catalogue, where the sources were (and the journal); once: identity, new directories,
        // the first catalogue, and that there is one.
        expect(syncs.length - ofFiles.length).toBeLessThanOrEqual(groups * 5 + 10);
      }),
    ));

  test('is the same for what was streamed; pg_receivewal’s files are only read, and remembered when all is done', () =>
    withConfiguration(configuration, (options) =>
      withFaultHome({ ...options, ...STREAMING, archiver_workers: 0 }, async (fault) => {
        await streamAfterPromotion(fault);
        const output = join(fault.home.home, 'trace');
        const args = ['archive-wal', 'main'];
        const result = await runTraced({ config: fault.config, args, syscalls: SYSCALLS, output });
        expect(result).toMatchObject({ status: 0, stderr: '' });
        const calls = await readTrace(output);
        for (const name of fault.produced.keys()) {
          const isKept = fault.staying.has(name);
          const expected = isKept ? [...IN_ORDER.slice(0, -1), 'source removed: never'] : IN_ORDER;
          expect({ name, order: orderOf(calls, fault, name) }).toEqual({ name, order: expected });
        }
        // Old partial files are copied: one that is open after all has another inode than the archive's.
        const links = calls.filter(({ name, ok }) => name === 'link' && ok).map(({ paths: [from = ''] }) => from);
        expect(links.filter((from) => from.includes('.partial')).every((from) => from.endsWith('.tmp'))).toBe(true);

        const kept = [...fault.staying.keys()].map((name) => join(fault.home.streaming, name));
        const touching = calls.filter(({ paths }) => paths.some((path) => kept.includes(path)));
        expect(touching.filter(({ name }) => name !== 'openat')).toEqual([]);
        expect(touching.every(({ text }) => text.includes('O_RDONLY'))).toBe(true);

        const memory = join(fault.home.home, fault.home.server, '.streaming-marker.json');
        const remembered = calls.find(({ name, paths, ok }) => name === 'rename' && ok && paths[1] === memory);
        const catalogue = join(fault.home.wals, 'main-xlog.db');
        const lines = calls.findLast((call) => isSync(call) && call.paths[0]?.startsWith(catalogue) === true);
        expect(remembered?.entered).toBeGreaterThan(lines?.left ?? Infinity);
        expect(await fault.violations('healed')).toEqual([]);
      }),
    ));
});

/** The steps of one file, in the order in which they must end before the next begins. */
const IN_ORDER = [
  'bytes written',
  'bytes durable',
  'linked',
  'name durable',
  'line written',
  'line durable',
  'source removed',
];

function orderOf(calls: readonly Call[], { home }: FaultHome, name: WalName): string[] {
  const final = join(home.wals, walDirectory(name), name);
  const claimed = join(home.home, home.server, '.claimed');
  const claims = [join(claimed, 'incoming', name), join(claimed, 'streaming', name)];
  const sources = [join(home.incoming, name), join(home.streaming, name), ...claims];
  const prepared = [`${final}.tmp`, ...claims];
  const catalogues = [join(home.wals, 'main-xlog.db'), join(home.wals, 'main-xlog.db.tmp')];
  const touches = (call: Call, paths: readonly string[]): boolean => paths.includes(call.paths[0] ?? '');

  const link = calls.find(({ name: call, ok, paths }) => call === 'link' && ok && paths[1] === final);
  if (link === undefined) return ['never linked'];
  const written = calls.findLast((call) => /^p?write/.test(call.name) && call.ok && touches(call, prepared));
  const durable = calls.findLast((call) => isSync(call) && touches(call, prepared) && call.left < link.entered);
  const named = calls.find((call) => isSync(call) && touches(call, [dirname(final)]) && call.entered > link.left);
  const line = calls.find(
    (call) => call.name === 'write' && call.ok && touches(call, catalogues) && call.entered > link.left,
  );
  const lineDurable = calls.find(
    (call) => isSync(call) && touches(call, catalogues) && call.entered > (line?.left ?? Infinity),
  );
  const removed = calls.find((call) => call.name === 'unlink' && call.ok && touches(call, sources));
  const steps = [
    // A claimed file isn't written by us at all.
    { step: 'bytes written', call: written ?? durable, instant: written === undefined },
    { step: 'bytes durable', call: durable },
    { step: 'linked', call: link },
    { step: 'name durable', call: named },
    { step: 'line written', call: line },
    { step: 'line durable', call: lineDurable },
    { step: 'source removed', call: removed },
  ];
  const done: string[] = [];
  let before = -1;
  for (const { step, call, instant } of steps) {
    if (call === undefined) return [...done, `${step}: never`];
    if (call.entered < before) return [...done, `${step}: too early, ${call.text}`];
    if (instant !== true) before = call.left;
    done.push(step);
  }
  return done;
}
