// The daemon: from arrival to durable, a backlog, WAL over its socket, its start.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { makeBacklog } from './backlog.js';
import { contendersFor, copyCorpus, whyInvalid } from './contenders.js';
import { CLI, median, mustRun, NODE, run, say, settle, which, withScratch } from './system.js';
import { goal, megabytes, millis, printTable, seconds, times } from './table.js';

/** @typedef {import('./corpus.js').Corpus} Corpus */

const ARRIVALS_PER_RUN = 40;
const GETS_PER_RUN = 24;

/**
 * @typedef {object} Daemon
 * @property {string} socket
 * @property {string} incoming
 * @property {number} readyMs
 * @property {() => number} rss peak so far of its own process; `flock`, which it starts for a moment now and then, has 2 MB
 * @property {() => Promise<void>} stop
 */

/** @param {string} home @param {string} options @param {(home: string) => Promise<void>} [prepare] @returns {Promise<Daemon>} */
async function startDaemon(home, options, prepare = async () => {}) {
  fs.mkdirSync(path.join(home, 'main', 'incoming'), { recursive: true });
  await prepare(home);
  const conf = path.join(home, 'walwarden.conf');
  fs.writeFileSync(
    conf,
    `[barman]\nbarman_home = ${home}\nlog_file = ${home}/log\n[main]\ndescription = bench\narchiver = on\n${options}`,
  );
  await settle();
  const began = performance.now();
  const child = spawn(NODE, [CLI, '-c', conf, 'daemon'], {
    env: { ...process.env, UV_THREADPOOL_SIZE: '32' },
    stdio: 'inherit',
  });
  const ended = once(child, 'exit');
  const socket = path.join(home, 'walwarden.sock');
  while (!(await answers(socket))) {
    if (child.exitCode !== null) throw new Error('the daemon does not start');
    await delay(2);
  }
  return {
    socket,
    incoming: path.join(home, 'main', 'incoming'),
    readyMs: performance.now() - began,
    rss: () => 1024 * Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync(`/proc/${child.pid}/status`, 'latin1'))?.[1] ?? NaN),
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** @param {string} socketPath @returns {Promise<boolean>} */
function answers(socketPath) {
  return new Promise((resolve) => {
    http
      .get({ socketPath, path: '/livez', agent: false }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode === 200));
      })
      .on('error', () => resolve(false));
  });
}

/** @param {number[]} values @param {number} share */
function quantile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? NaN;
}

/** @param {string} compression */
const configured = (compression) =>
  compression === 'none' ? '' : `compression = ${compression}\ncompression_level = 3\n`;

/** @param {Corpus} corpus @param {{ runs: number, files: number }} options */
export async function benchDaemon(corpus, options) {
  return {
    arrival: await benchArrival(corpus, options),
    backlog: await benchBurst(corpus, options),
    get: await benchHttpGet(corpus, options),
  };
}

/** @param {Corpus} corpus @param {{ runs: number }} options */
async function benchArrival(corpus, options) {
  /** @type {{ name: string, ms: number[], readyMs: number, rss: number }[]} */
  const results = [];
  for (const compression of ['zstd', 'none']) {
    await withScratch(async (scratch) => {
      say(`daemon: arrivals, ${compression}`);
      // On the file system of the home, as archive_command's copy is.
      const waiting = path.join(scratch, 'waiting');
      const daemon = await startDaemon(path.join(scratch, 'home'), configured(compression));
      /** @type {number[]} */
      const ms = [];
      let rss = NaN;
      try {
        await copyCorpus(corpus, waiting);
        const names = corpus.names.slice(0, Math.min(corpus.names.length, options.runs * ARRIVALS_PER_RUN));
        for (const name of names) {
          await delay(300 + Math.random() * 400);
          const source = path.join(daemon.incoming, name);
          const began = performance.now();
          fs.renameSync(path.join(waiting, name), source);
          // It goes when its copy and its line are durable.
          while (fs.existsSync(source)) await delay(1);
          ms.push(performance.now() - began);
        }
        rss = daemon.rss();
      } finally {
        await daemon.stop();
      }
      // The first one starts the threads.
      results.push({ name: compression, ms: ms.slice(1), readyMs: daemon.readyMs, rss });
    });
  }
  const rows = results.map(({ name, ms, readyMs, rss }) => [
    name,
    String(ms.length),
    millis(median(ms)),
    millis(quantile(ms, 0.99)),
    millis(Math.max(...ms)),
    millis(readyMs),
    megabytes(rss),
    `${goal('median < 150 ms', median(ms) < 150)}, ${goal('99 % < 500 ms', quantile(ms, 0.99) < 500)}`,
  ]);
  const head = ['daemon', 'files', 'median ms', '99 % ms', 'max ms', 'start to ready ms', 'peak RSS MB', 'goal'];
  printTable('from arrival of a 16 MiB segment to durable (source gone)', head, rows);
  return results;
}

const BURST = 10_000;

/** @param {Corpus} corpus @param {{ files: number }} options */
async function benchBurst(corpus, options) {
  /** @type {{ files: number, firstMs: number, allMs: number | null, archived: number, watchedMs: number, rss: number }[]} */
  const results = [];
  for (const files of [BURST, options.files]) {
    await withScratch(async (scratch) => {
      say(`daemon: a backlog of ${files} files`);
      const home = path.join(scratch, 'home');
      const began = { at: 0 };
      const daemon = await startDaemon(home, configured('zstd'), async () => {
        fs.rmSync(path.join(home, 'main', 'incoming'), { recursive: true });
        makeBacklog(corpus, path.join(home, 'main', 'incoming'), files);
        began.at = performance.now();
      });
      began.at = performance.now() - daemon.readyMs;
      const left = () => fs.readdirSync(daemon.incoming).length;
      const first = path.join(daemon.incoming, '000000010000000000000001');
      while (fs.existsSync(first)) await delay(2);
      const firstMs = performance.now() - began.at;
      // All of the smaller one; a look at the work on the larger.
      const until = performance.now() + (files === BURST ? 600_000 : 20_000);
      while (left() > 0 && performance.now() < until) await delay(100);
      const watchedMs = performance.now() - began.at;
      const archived = files - left();
      const rss = daemon.rss();
      await daemon.stop();
      results.push({ files, firstMs, allMs: archived === files ? watchedMs : null, archived, watchedMs, rss });
    });
  }
  const rows = results.map(({ files, firstMs, allMs, archived, watchedMs, rss }) => [
    String(files),
    seconds(firstMs),
    allMs === null ? '-' : seconds(allMs),
    ((archived * 1000) / watchedMs).toFixed(0),
    megabytes(rss),
    `${goal('first < 1 s', firstMs < 1_000)}, ${goal('RSS < 200 MB', rss < 200e6)}`,
  ]);
  const head = ['waiting files of 1 MiB', 'first s', 'all s', 'files/s', 'peak RSS MB', 'goal'];
  printTable('daemon: a backlog when it starts, start-up included, zstd', head, rows);
  return results;
}

/** @param {Corpus} corpus @param {{ runs: number }} options */
async function benchHttpGet(corpus, options) {
  const some = { ...corpus, names: corpus.names.slice(0, GETS_PER_RUN) };
  return withScratch(async (scratch) => {
    const target = path.join(scratch, 'fetched');
    const curl = (/** @type {string[]} */ ...args) => ({ argv: ['curl', '-sS', '--fail', '-o', target, ...args] });
    const plain = path.join(scratch, 'plain');
    await copyCorpus(some, plain);
    /** @type {Daemon[]} */
    const daemons = [];
    /** @type {{ name: string, ms: number[], skipped?: string, get: (name: string) => import('./system.js').Command }[]} */
    const contenders = [{ name: 'curl file://', ms: [], get: (name) => curl(`file://${path.join(plain, name)}`) }];
    try {
      for (const [name, prefetch] of /** @type {const} */ ([
        ['read ahead', 4],
        ['not read ahead', 0],
      ])) {
        const home = path.join(scratch, name.replaceAll(' ', '-'));
        const daemon = await startDaemon(home, `${configured('zstd')}get_wal_prefetch = ${prefetch}\n`);
        daemons.push(daemon);
        await copyCorpus(some, path.join(home, 'copy'));
        for (const wal of some.names) fs.renameSync(path.join(home, 'copy', wal), path.join(daemon.incoming, wal));
        while (fs.readdirSync(daemon.incoming).length > 0) await delay(20);
        contenders.push({
          name: `walwarden daemon, ${name}`,
          ms: [],
          get: (wal) => curl('--unix-socket', daemon.socket, `http://localhost/servers/main/wal/${wal}`),
        });
      }
      const rival = contendersFor('zstd').find(({ name }) => name.startsWith('pgBackRest'));
      if (rival !== undefined && which('pgbackrest') !== undefined) {
        const home = path.join(scratch, 'pgbackrest');
        fs.mkdirSync(home);
        const site = await rival.setUp(home, 'zstd', some);
        const { status } = await run(site.archive);
        const why = status === 0 ? whyInvalid(rival, site, 'zstd', some) : `archiving ended with ${status}`;
        const { get } = site;
        if (get !== undefined && why === undefined) {
          contenders.push({
            name: `${rival.name}, archive-get`,
            ms: [],
            get: (name) => get(name),
          });
        }
      }
      // One after the other, as a recovery asks for them.
      for (let round = 0; round < options.runs; round++) {
        for (const contender of contenders) {
          say(`daemon: ${contender.name}, run ${round + 1}`);
          for (const name of some.names) {
            const ended = await mustRun(contender.get(name));
            contender.ms.push(ended.ms);
            // PostgreSQL replays it meanwhile.
            await delay(60);
          }
        }
      }
    } finally {
      for (const daemon of daemons) await daemon.stop();
    }
    const base = median(contenders[0]?.ms ?? []);
    const decompression = await decompressionMs(scratch, some);
    const rows = contenders.map(({ name, ms }) => {
      const found = median(ms);
      let verdict = '';
      if (name.endsWith(', read ahead')) verdict = goal('<= 1.5x', found <= 1.5 * base);
      if (name.endsWith('not read ahead'))
        verdict = goal('<= 1.5x + one decompression', found <= 1.5 * base + decompression);
      return [name, millis(Math.min(...ms)), millis(found), millis(quantile(ms, 0.99)), times(found / base), verdict];
    });
    const head = ['GET', 'min ms', 'median ms', '99 % ms', 'of curl file://', 'goal'];
    printTable(`a 16 MiB segment, zstd, in order; \`zstd -d\` of one: ${decompression.toFixed(0)} ms`, head, rows);
    return { contenders: contenders.map(({ name, ms }) => ({ name, ms })), decompression };
  });
}

/** What the program takes for one, its start included. @param {string} scratch @param {Corpus} corpus */
async function decompressionMs(scratch, corpus) {
  const source = path.join(corpus.walDir, corpus.names[0] ?? '');
  const packed = path.join(scratch, 'one.zst');
  await mustRun({ argv: ['zstd', '-q', '-3', '-f', source, '-o', packed] });
  /** @type {number[]} */
  const ms = [];
  for (let time = 0; time < 10; time++) {
    ms.push((await mustRun({ argv: ['zstd', '-q', '-d', '-f', packed, '-o', path.join(scratch, 'one')] })).ms);
  }
  return median(ms);
}
