// What is lost when the server dies: kill -9 of PostgreSQL under load, while its WAL is received. Bytes of WAL that the
// server had written and the streaming directory has not, and transactions that were acknowledged and are not there.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { findPostgres, serverUser } from './corpus.js';
import { CLI, median, mustRun, NODE, run, say, versionOf, which, withScratch } from './system.js';
import { goal, printTable } from './table.js';

const CLIENTS = 8;
const LOAD_SECONDS = 3;
const NAME = 'bench_receiver';
const SEGMENT = 16 * 1024 * 1024;

/**
 * @typedef {object} Receiver
 * @property {string} name
 * @property {string[]} argv before the command
 * @property {Record<string, string>} env
 */
/** @typedef {{ bytes: number, commits: number, lost: number, perSecond: number }} Crash */

/** @param {{ runs: number }} options */
export async function benchRpo(options) {
  const receivers = [
    { name: 'walwarden', argv: [NODE, CLI, '-q'], env: {} },
    ...(which('barman') === undefined
      ? []
      : [{ name: `Barman ${versionOf(['barman', '--version']).split(' ')[0]}`, argv: ['barman', '-q'], env: {} }]),
  ];
  /** @type {{ name: string, synchronous: boolean, crashes: Crash[], skipped?: string }[]} */
  const results = [];
  for (const synchronous of [false, true]) {
    for (const { name } of receivers) results.push({ name, synchronous, crashes: [] });
  }
  for (let round = 0; round < options.runs; round++) {
    for (const result of results) {
      const receiver = receivers.find(({ name }) => name === result.name);
      if (receiver === undefined || result.skipped !== undefined) continue;
      say(`RPO, run ${round + 1}: ${result.name}, ${result.synchronous ? 'synchronous' : 'asynchronous'}`);
      try {
        result.crashes.push(await withScratch((scratch) => crash(receiver, result.synchronous, scratch)));
      } catch (error) {
        result.skipped = error instanceof Error ? error.message : String(error);
      }
    }
  }
  report(results);
  return results;
}

/** @param {{ name: string, synchronous: boolean, crashes: Crash[], skipped?: string }[]} results */
function report(results) {
  const rows = results.map(({ name, synchronous, crashes, skipped }) => {
    const title = `${name}, ${synchronous ? 'synchronous' : 'asynchronous'}`;
    if (skipped !== undefined) return [title, '-', '-', '-', '-', `no figures: ${skipped}`];
    const bytes = crashes.map((one) => one.bytes);
    const lost = crashes.map((one) => one.lost);
    const most = Math.max(...lost);
    return [
      title,
      median(crashes.map((one) => one.perSecond)).toFixed(0),
      median(bytes).toFixed(0),
      Math.max(...bytes).toFixed(0),
      String(most),
      synchronous && name === 'walwarden' ? goal('0 lost', most === 0) : '',
    ];
  });
  const title = `RPO: WAL not in streaming/ after kill -9 of the server, ${CLIENTS} clients`;
  printTable(title, ['receiver', 'commits/s', 'median bytes', 'most bytes', 'acknowledged, lost', 'goal'], rows);
}

/** One server, one receiver, one crash. @param {Receiver} receiver @param {boolean} synchronous @param {string} scratch @returns {Promise<Crash>} */
async function crash(receiver, synchronous, scratch) {
  const bin = findPostgres();
  const user = serverUser();
  const data = path.join(scratch, 'data');
  const socket = path.join(scratch, 'socket');
  for (const directory of [data, socket]) {
    fs.mkdirSync(directory, { mode: 0o755 });
    if (user.uid !== undefined && user.gid !== undefined) fs.chownSync(directory, user.uid, user.gid);
  }
  const as = { ...user, cwd: scratch, env: { LC_ALL: 'C', HOME: scratch } };
  await mustRun({ ...as, argv: [path.join(bin, 'initdb'), '-D', data, '-A', 'trust', '-U', 'postgres', '--no-sync'] });
  fs.appendFileSync(
    path.join(data, 'postgresql.conf'),
    `listen_addresses = ''\nunix_socket_directories = '${socket}'\nmax_wal_size = 8GB\n` +
      (synchronous ? `synchronous_standby_names = '${NAME}'\n` : ''),
  );
  const log = fs.openSync(path.join(scratch, 'log'), 'w');
  const server = spawn(path.join(bin, 'postgres'), ['-D', data], {
    ...as,
    env: { ...process.env, ...as.env },
    stdio: ['ignore', log, log],
  });
  fs.closeSync(log);
  const dead = new Promise((resolve) => server.once('exit', resolve));
  const home = path.join(scratch, 'home');
  const command = configure(receiver, home, socket);
  let receiving;
  try {
    await connected(socket, `set synchronous_commit = local; create table load (id bigint, filler text)`);
    await run(command('receive-wal', '--create-slot', 'main'));
    receiving = startReceiver(command('receive-wal', 'main'));
    const streaming = await untilStreaming(socket, synchronous);
    if (!streaming) throw new Error(`${receiver.name} does not stream: ${receiving.stderr()}`);
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connectedClient(socket)));
    const acknowledged = loadUntilItDies(clients);
    await delay(LOAD_SECONDS * 1000);
    killTree(server.pid ?? 0);
    await dead;
    const xids = (await Promise.all(acknowledged)).flat();
    // What was on its way still arrives: pg_receivewal reads to the end of its connection.
    await delay(1500);
    await receiving.stop();
    receiving = undefined;
    const theirs = walIn(bin, path.join(data, 'pg_wal'), scratch);
    const ours = walIn(bin, path.join(home, 'main', 'streaming'), scratch);
    return {
      bytes: Number(theirs.end - ours.end),
      commits: xids.length,
      lost: xids.filter((xid) => !ours.commits.has(xid)).length,
      perSecond: xids.length / LOAD_SECONDS,
    };
  } finally {
    killTree(server.pid ?? 0);
    await dead;
    await receiving?.stop();
  }
}

/** @param {Receiver} receiver @param {string} home @param {string} socket */
function configure(receiver, home, socket) {
  for (const name of ['incoming', 'wals', 'streaming', 'errors', 'base']) {
    fs.mkdirSync(path.join(home, 'main', name), { recursive: true, mode: 0o700 });
  }
  const conf = path.join(home, 'barman.conf');
  const conninfo = `host=${socket} user=postgres dbname=postgres`;
  fs.writeFileSync(
    conf,
    `[barman]\nbarman_home = ${home}\nbarman_user = ${versionOf(['id', '-un'])}\nlog_file = ${home}/log\n\n[main]\n` +
      `description = bench\nconninfo = ${conninfo}\nstreaming_conninfo = ${conninfo}\nbackup_method = postgres\n` +
      `streaming_archiver = on\nslot_name = bench\nstreaming_archiver_name = ${NAME}\n`,
  );
  return (/** @type {string[]} */ ...args) => ({
    argv: [...receiver.argv, '-c', conf, ...args],
    env: receiver.env,
    cwd: home,
  });
}

/** @param {import('./system.js').Command} command */
function startReceiver(command) {
  const [program = '', ...args] = command.argv;
  const child = spawn(program, args, {
    cwd: command.cwd,
    env: { ...process.env, ...command.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr = (stderr + text).slice(-2_000)));
  const ended = new Promise((resolve) => child.once('close', resolve));
  return {
    stderr: () => stderr,
    async stop() {
      child.kill('SIGINT');
      await ended;
    },
  };
}

/** A session that survives the crash of its server. @param {string} socket */
async function connectedClient(socket) {
  const client = new Client({ host: socket, user: 'postgres', database: 'postgres' });
  client.on('error', () => {}); // that is what we are here for
  await client.connect();
  return client;
}

/** @param {string} socket @param {string} sql */
async function connected(socket, sql) {
  for (let tries = 0; ; tries++) {
    try {
      const client = await connectedClient(socket);
      try {
        return await client.query(sql);
      } finally {
        await client.end();
      }
    } catch (error) {
      if (tries === 100) throw error;
      await delay(100);
    }
  }
}

/** @param {string} socket @param {boolean} synchronous */
async function untilStreaming(socket, synchronous) {
  for (let tries = 0; tries < 200; tries++) {
    const { rows } = await connected(
      socket,
      `select sync_state from pg_stat_replication where application_name = '${NAME}' and state = 'streaming'`,
    );
    if (rows.length === 1 && (!synchronous || rows[0].sync_state === 'sync')) return true;
    await delay(100);
  }
  return false;
}

/** The ids of the transactions that the server has told each client to be committed. @param {Client[]} clients */
function loadUntilItDies(clients) {
  return clients.map(async (client) => {
    /** @type {string[]} */
    const xids = [];
    try {
      for (;;) {
        const { rows } = await client.query(
          `insert into load select 1, repeat(md5(random()::text), 8) returning pg_current_xact_id()::text as xid`,
        );
        xids.push(rows[0].xid);
      }
    } catch {
      return xids; // the server is dead
    }
  });
}

/** @param {number} pid */
function killTree(pid) {
  if (pid === 0) return;
  /** @type {number[]} */
  const children = [];
  for (const entry of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = fs.readFileSync(`/proc/${entry}/stat`, 'latin1');
      if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === pid) children.push(Number(entry));
    } catch {
      // Ended meanwhile.
    }
  }
  for (const victim of [pid, ...children]) {
    try {
      process.kill(victim, 'SIGKILL');
    } catch {
      // Ended by itself.
    }
  }
}

/**
 * The end of the WAL in a directory, and the transactions committed in it: pg_waldump's word.
 * @param {string} bin @param {string} directory @param {string} scratch
 */
function walIn(bin, directory, scratch) {
  const copy = fs.mkdtempSync(path.join(scratch, 'wal-'));
  const names = fs.readdirSync(directory).filter((name) => /^[0-9A-F]{24}(\.partial)?$/.test(name));
  for (const name of names.toSorted()) fs.copyFileSync(path.join(directory, name), path.join(copy, name.slice(0, 24)));
  const [first = ''] = fs.readdirSync(copy).toSorted();
  const start = (BigInt(`0x${first.slice(8, 16)}`) << 32n) + BigInt(`0x${first.slice(16)}`) * BigInt(SEGMENT);
  const program = fs.existsSync(path.join(bin, 'pg_waldump')) ? path.join(bin, 'pg_waldump') : 'pg_waldump';
  // It ends with an error, at the first position that holds no record.
  const { stdout, stderr } = spawnSync(program, ['-p', copy, '-s', lsnText(start)], {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
  });
  const last = /tot\): +\d+\/ *(\d+), tx: .*?, lsn: ([0-9A-F]+)\/([0-9A-F]+),/.exec(
    stdout.slice(stdout.lastIndexOf('\n', stdout.length - 2) + 1),
  );
  if (last === null) throw new Error(`no WAL record in ${directory}: ${stderr.trim()}`);
  const commits = new Set(
    [...stdout.matchAll(/^rmgr: Transaction .* tx: +(\d+), .* desc: COMMIT/gm)].map((match) => match[1] ?? ''),
  );
  const [, length = '0', high = '0', low = '0'] = last;
  return { end: (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`) + BigInt(length), commits };
}

/** @param {bigint} lsn */
function lsnText(lsn) {
  return `${(lsn >> 32n).toString(16)}/${(lsn & 0xffffffffn).toString(16)}`;
}
