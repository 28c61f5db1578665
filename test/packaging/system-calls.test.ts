import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { namesIn } from '../commands/with-server.ts';
import { withStreamingHome } from '../e2e/running-receiver.ts';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { writeWal } from '../support/make-wal.ts';
import { descendantsOf } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { RunningDaemon } from '../support/running-daemon.ts';
import { SERVICES, valuesOf } from './packaged.ts';

beforeAll(ensureBuilt);

/** What a SystemCallFilter= allows, the groups in it resolved. */
async function allowedBy(filter: string): Promise<ReadonlySet<string>> {
  const groups = new Map<string, string[]>();
  const { stdout, status } = await run('systemd-analyze', ['syscall-filter', '--no-pager'], {});
  if (status !== 0) throw new Error('systemd-analyze is needed: apt-get install systemd');
  let group: string[] = [];
  for (const line of stdout.split('\n')) {
    const text = line.trim();
    if (text === '' || text.startsWith('#')) continue;
    if (line.startsWith('@')) groups.set(text, (group = []));
    else group.push(text);
  }
  const found = new Set<string>();
  const add = (name: string): void => {
    for (const each of groups.get(name) ?? []) (each.startsWith('@') ? add : found.add.bind(found))(each);
  };
  for (const name of filter.split(' ')) add(name);
  return found;
}

/** Libuv does without these. */
const TRIED = new Set(['io_uring_setup', 'io_uring_enter', 'io_uring_register']);

it('the daemon, its receiver, compression programs and hook scripts need no system call that the units forbid', () =>
  withStreamingHome({ segmentSizeMb: 1 }, async (pg, streaming) => {
    const [filter = ''] = await valuesOf('walwarden.service', 'SystemCallFilter');
    for (const unit of SERVICES) expect(await valuesOf(unit, 'SystemCallFilter')).toEqual([filter]);
    const { home, incoming, wals } = streaming.home;
    const { config } = await streaming.with({
      archiver: 'on',
      compression: 'pigz',
      pre_archive_script: 'cat /dev/null',
    });
    const trace = join(home, 'trace');
    const node = join(home, 'traced-node');
    // -D: what we start is the daemon, and strace a descendant of it.
    await writeFile(node, `#!/bin/sh\nexec strace -D -f -qq -e signal=none -o ${trace} ${process.execPath} "$@"\n`);
    await chmod(node, 0o755);
    const daemon = new RunningDaemon(config, home, { program: { node, cli: CLI } });
    try {
      await daemon.ready();
      await daemon.waitsFor('pg_receivewal', async () =>
        (await descendantsOf(daemon.pid)).some(({ command }) => command === 'pg_receivewal'),
      );
      const { name } = await writeWal(incoming, { segment: 1, systemIdentifier: await pg.systemIdentifier() });
      const received = await pg.writeSegments(1);
      for (const each of [name, received]) {
        await daemon.waitsFor(`${each} in the archive`, async () =>
          (await namesIn(join(wals, each.slice(0, 16)))).includes(each),
        );
      }
      expect((await daemon.ask('/metrics')).status).toBe(200);
      expect(await daemon.stop()).toEqual({ status: 0, signal: null });
    } finally {
      await daemon.dispose();
    }
    const lines = (await readFile(trace, 'latin1')).split('\n');
    const used = new Set(lines.flatMap((line) => /^\d+ +(\w+)\(/.exec(line)?.[1] ?? []));
    expect(used.size).toBeGreaterThan(50);
    const may = await allowedBy(filter);
    expect([...used].filter((call) => !may.has(call) && !TRIED.has(call))).toEqual([]);
  }));
