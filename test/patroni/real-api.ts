import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { until } from '../support/poll.ts';
import { descendantsOf, killIfThere } from '../support/processes.ts';
import { withTempDir } from '../support/temp-dir.ts';

/** A running pg-backup-api, with Barman servers that have a backup. */
export interface RealApi {
  readonly url: string;
  /** The arguments of the `barman recover` that was run for a server. */
  readonly recovered: (server: string) => Promise<string[]>;
}

// Debian's own, which has its Barman.
const PYTHON = '/usr/bin/python3';

/** Its configuration file has one place, so that is moved. */
const DRIVER = `
import os
import pg_backup_api.utils as utils
utils.CONFIG_FILENAME = os.environ['WALWARDEN_TEST_BARMAN_CONF']
utils.LOG_FILENAME = os.environ['WALWARDEN_TEST_BARMAN_CONF'] + '.log'
from pg_backup_api.__main__ import main
main()
`;

/** The Python path of the checkout that PG_BACKUP_API_CHECKOUT names; undefined where it is unset. */
export function checkedOutApi(): string | undefined {
  const checkout = process.env['PG_BACKUP_API_CHECKOUT'];
  if (checkout === undefined || checkout === '') return undefined;
  const path = join(checkout, 'pg_backup_api');
  if (!existsSync(join(path, 'pg_backup_api', 'server_operation.py'))) {
    throw new Error(
      `PG_BACKUP_API_CHECKOUT = ${checkout} is no checkout of pg-backup-api 2.x: there is no pg_backup_api/pg_backup_api/server_operation.py`,
    );
  }
  return [path, process.env['BARMAN_CHECKOUT'] ?? '', process.env['PYTHONPATH'] ?? '']
    .filter((part) => part !== '')
    .join(delimiter);
}

/** The servers: two restores in one second must be of two servers, since their ids are seconds. */
export const SERVERS = ['done', 'failing', 'lost', 'empty'];

/** Gives a pg-backup-api of the checkout to `body`. Its `barman recover` writes down what it was asked for; that of `failing` fails. */
export async function withRealApi<T>(pythonPath: string, body: (api: RealApi) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    const config = join(directory, 'barman.conf');
    await writeFile(config, barmanConfig(directory));
    for (const server of SERVERS.filter((name) => name !== 'empty')) await writeBackup(join(directory, server));
    const bin = join(directory, 'bin');
    await mkdir(bin);
    await program(join(bin, 'pg-backup-api'), `exec ${PYTHON} '${join(directory, 'driver.py')}' "$@"`);
    await writeFile(join(directory, 'driver.py'), DRIVER);
    await program(join(bin, 'barman'), `printf '%s\\n' "$@" > '${directory}'/"$2".arguments\ntest "$2" != failing`);
    const env = {
      ...process.env,
      PATH: `${bin}${delimiter}${process.env['PATH'] ?? ''}`,
      PYTHONPATH: pythonPath,
      WALWARDEN_TEST_BARMAN_CONF: config,
    };
    const port = await freePort();
    const child = spawn(join(bin, 'pg-backup-api'), ['serve', '--port', `${port}`], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const said: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => said.push(chunk));
    const closed = once(child, 'close');
    try {
      await until('pg-backup-api to answer', async () => {
        if (child.exitCode !== null) throw new Error(`pg-backup-api ended: ${Buffer.concat(said).toString()}`);
        return answers(port);
      });
      const recovered = async (server: string): Promise<string[]> =>
        (await readFile(join(directory, `${server}.arguments`), 'utf8')).trimEnd().split('\n');
      return await body({ url: `http://127.0.0.1:${port}`, recovered });
    } finally {
      for (const { pid } of child.pid === undefined ? [] : await descendantsOf(child.pid)) killIfThere(pid, 'SIGKILL');
      child.kill('SIGKILL');
      await closed;
    }
  });
}

function barmanConfig(home: string): string {
  const global = `[barman]\nbarman_home = ${home}\nbarman_user = ${process.env['USER'] ?? 'root'}\nlog_file = ${home}/barman.log\n`;
  const server = (name: string): string =>
    `\n[${name}]\ndescription = ${name}\nssh_command = true\nconninfo = host=127.0.0.1 port=1\nbackup_method = rsync\narchiver = on\n`;
  return global + SERVERS.map(server).join('');
}

async function writeBackup(server: string): Promise<void> {
  const backup = join(server, 'base', '20260101T000000');
  await mkdir(backup, { recursive: true });
  const facts = {
    backup_label: 'None',
    begin_time: '2026-01-01 00:00:00+00:00',
    begin_wal: '000000010000000000000001',
    end_time: '2026-01-01 00:01:00+00:00',
    end_wal: '000000010000000000000002',
    mode: 'rsync-exclusive',
    status: 'DONE',
    timeline: '1',
    version: '150000',
    xlog_segment_size: '16777216',
  };
  await writeFile(
    join(backup, 'backup.info'),
    Object.entries(facts)
      .map(([key, value]) => `${key}=${value}\n`)
      .join(''),
  );
}

async function program(path: string, text: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    request({ host: '127.0.0.1', port, path: '/status', agent: false }, (response) => {
      response.resume().once('end', () => resolve(response.statusCode === 200));
    })
      .once('error', () => resolve(false))
      .end();
  });
}
