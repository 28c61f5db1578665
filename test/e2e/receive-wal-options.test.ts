import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { json, withServer } from '../commands/with-server.ts';
import { ensureBuilt } from '../support/cli.ts';
import { until } from '../support/poll.ts';
import { RunningReceiver } from './running-receiver.ts';

const STREAMING = {
  archiver: 'off',
  streaming_archiver: 'on',
  slot_name: 'walwarden',
  streaming_conninfo: 'host=/nowhere user=streamer password=s3cret',
};

test.each([
  [
    'without streaming_archiver',
    { streaming_conninfo: 'host=/nowhere' },
    "ERROR: Unable to start receive-wal process: streaming_archiver option set to 'off' for server main\n" +
      'HINT: set streaming_archiver = on in [main]\n',
  ],
  [
    'without streaming_conninfo',
    { archiver: 'off', streaming_archiver: 'on', slot_name: 'walwarden' },
    /^ERROR: server main is disabled: .* streaming_archiver = on needs streaming_conninfo or conninfo\n/,
  ],
  [
    'on a passive server',
    { primary_ssh_command: 'ssh primary', ...STREAMING },
    /^ERROR: Unable to start receive-wal process: server main is passive \(primary_ssh_command\)\nHINT: its WAL is received by its primary node/,
  ],
  ['on a disabled server', { ...STREAMING, create_slot: 'maybe' }, /^ERROR: server main is disabled: .*create_slot/],
])('receive-wal %s is refused with exit status 1 and the option to change', (_case, options, expected) =>
  withServer(options, async (server) => {
    const { status, stderr, stdout } = await server.cli(['receive-wal', 'main']);
    expect(status).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toEqual(typeof expected === 'string' ? expected : expect.stringMatching(expected));
    expect((await readdir(server.home)).filter((name) => name.endsWith('.lock'))).toEqual([]);
  }),
);

test('an inactive server is passed over, as by everything that archives', () =>
  withServer({ ...STREAMING, active: 'false' }, async (server) => {
    expect(await server.cli(['receive-wal', 'main'])).toMatchObject({
      status: 0,
      stdout: 'Skipping inactive server main\n',
    });
  }));

test.each([
  [['--stop', '--reset'], '--stop and --reset'],
  [['--create-slot', '--drop-slot'], '--create-slot and --drop-slot'],
  [['--stop', '--reset', '--drop-slot'], '--stop and --reset and --drop-slot'],
  [['--if-not-exists'], '--if-not-exists'],
  [['--drop-slot', '--if-not-exists'], '--if-not-exists'],
])('%j is a mistake on the command line', (flags, named) =>
  withServer(STREAMING, async (server) => {
    const { status, stderr } = await server.cli(['receive-wal', ...flags, 'main']);
    expect(status).toBe(2);
    expect(stderr).toContain(`ERROR: receive-wal: ${named}`);
  }),
);

test('an unknown server is told with the one that was meant', () =>
  withServer(STREAMING, async (server) => {
    const { status, stderr } = await server.cli(['receive-wal', 'mian']);
    expect(status).toBe(1);
    expect(stderr).toContain('did you mean "main"?');
  }));

test.each(['backup', 'archive-wal', 'cron', 'Receive-WAL', ''])(
  'terminate-process ends receive-wal only, not %j',
  (task) =>
    withServer(STREAMING, async (server) => {
      expect(await server.cli(['terminate-process', 'main', task])).toMatchObject({
        status: 2,
        stdout: '',
        stderr:
          `ERROR: terminate-process: can't terminate ${JSON.stringify(task)}: expected receive-wal\n` +
          'HINT: receive-wal is the one process of a server that runs until it is asked to stop; archive-wal and cron end by themselves\n',
      });
    }),
);

test('--stop needs no configuration that works', () =>
  withServer({ ...STREAMING, create_slot: 'maybe' }, async (server) => {
    const { status, stderr } = await server.cli(['receive-wal', '--stop', 'main']);
    expect(status).toBe(1);
    expect(stderr).toContain('Termination of receive-wal failed: no such process for server main');
  }));

test('what was done is there as JSON, and so is what was not', () =>
  withServer({ ...STREAMING, active: 'false' }, async (server) => {
    expect(json(await server.cli(['-f', 'json', 'receive-wal', 'main']))).toEqual({
      server: 'main',
      action: 'receive',
      message: 'Skipping inactive server main',
    });
    const refused = await server.cli(['-f', 'json', 'receive-wal', '--stop', 'main']);
    expect(JSON.parse(refused.stderr)).toMatchObject({ error: { code: 'receiver' } });
  }));

test('the directories of a server that streams are made, and its lock holds our pid', () =>
  withServer(STREAMING, async ({ config, home }) => {
    await ensureBuilt();
    const receiver = new RunningReceiver(config);
    try {
      const lock = join(home, '.main-receive-wal.lock');
      const pid = await until('the lock', async () => {
        const text = await readFile(lock, 'utf8').catch(() => '');
        return text.endsWith('\n') && text;
      });
      expect(pid).toBe(`${receiver.pid}\n`);
      expect(await readdir(join(home, 'main'))).toEqual(expect.arrayContaining(['streaming', 'wals', 'errors']));
      expect(await receiver.stop()).toEqual({ status: 0, signal: null });
      expect(receiver.stderr).not.toContain('s3cret');
    } finally {
      await receiver.stop('SIGKILL');
    }
  }));
