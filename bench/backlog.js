// Many files wait: when is the first one archived, and what does the waiting cost?
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { contendersFor } from './contenders.js';
import { markedEnv, run, say, settle, storedWals, watchRss, withScratch } from './system.js';
import { goal, megabytes, printTable, seconds } from './table.js';

const MIB = 1024 * 1024;
/** How long we watch it work before SIGTERM. */
const WATCH_MS = 10_000;
/** Somebody who has archived nothing by then is stopped. */
const PATIENCE_MS = 120_000;

/** @typedef {{ name: string, firstMs?: number, rss: number, archived: number, stopMs: number, status: string, idle: boolean }} Drained */

/** @param {import('./corpus.js').Corpus} corpus @param {{ files: number }} options */
export async function benchBacklog(corpus, options) {
  return withScratch(async (scratch) => {
    say(`backlog: making ${options.files} files`);
    const waiting = path.join(scratch, 'waiting');
    makeBacklog(corpus, waiting, options.files);
    /** @type {Drained[]} */
    const results = [];
    for (const contender of contendersFor('zstd').filter(
      ({ kind, name }) => kind === 'ours' || name.startsWith('Barman'),
    )) {
      const home = path.join(scratch, contender.name.replaceAll(' ', '-'));
      fs.mkdirSync(home);
      const codec = contender.name.startsWith('Barman 3.4') ? 'gzip' : 'zstd';
      const site = await contender.setUp(home, codec, { ...corpus, names: corpus.names.slice(0, 1) });
      const incoming = path.join(home, 'main', 'incoming');
      fs.rmSync(incoming, { recursive: true });
      fs.renameSync(waiting, incoming);
      await settle();
      say(`backlog: ${contender.name}`);
      results.push(await drain(contender.name, site, fs.readdirSync(incoming).toSorted()[0] ?? ''));
      fs.renameSync(incoming, waiting);
    }
    report(results, options.files);
    return results;
  });
}

/**
 * Sparse files of 1 MiB with the header of a real segment, each with its own address.
 * @param {import('./corpus.js').Corpus} corpus @param {string} directory @param {number} files
 */
export function makeBacklog(corpus, directory, files) {
  const header = Buffer.alloc(40);
  const model = fs.openSync(path.join(corpus.walDir, corpus.names[0] ?? ''), 'r');
  fs.readSync(model, header);
  fs.closeSync(model);
  fs.mkdirSync(directory, { mode: 0o700 });
  header.writeUInt32LE(MIB, 32);
  for (let segment = 1; segment <= files; segment++) {
    header.writeBigUInt64LE(BigInt(segment) * BigInt(MIB), 8);
    const hex = (/** @type {number} */ value) => value.toString(16).toUpperCase().padStart(8, '0');
    const file = fs.openSync(
      path.join(directory, `00000001${hex(segment >>> 12)}${hex(segment & 0xfff)}`),
      'wx',
      0o600,
    );
    fs.writeSync(file, header);
    fs.ftruncateSync(file, MIB);
    fs.closeSync(file);
  }
}

/** @param {string} name @param {import('./contenders.js').Site} site @param {string} first */
async function drain(name, site, first) {
  const mark = `${process.pid}-${name}`;
  const watch = watchRss(mark);
  const started = performance.now();
  let pid = 0;
  const state = { running: true };
  const ended = run(
    { ...site.archive, env: { ...site.archive.env, ...markedEnv(mark) } },
    { onStart: (child) => (pid = child) },
  );
  const over = ended.then(() => (state.running = false));
  const firstStored = path.join(site.stored, first.slice(0, 16), first);
  let firstMs;
  while (state.running && performance.now() - started < PATIENCE_MS) {
    if (fs.existsSync(firstStored)) {
      firstMs = performance.now() - started;
      break;
    }
    await delay(5);
  }
  if (firstMs !== undefined) await Promise.race([over, delay(WATCH_MS)]);
  const stopping = performance.now();
  const idle = !state.running;
  if (state.running) process.kill(pid, 'SIGTERM');
  const { status, signal } = await ended;
  const rss = watch.stop();
  const archived = storedWals(site.stored).length;
  const base = { name, rss, archived, stopMs: performance.now() - stopping, status: String(signal ?? status), idle };
  return firstMs === undefined ? base : { ...base, firstMs };
}

/** @param {Drained[]} results @param {number} files */
function report(results, files) {
  const rows = results.map(({ name, firstMs, rss, archived, stopMs, status, idle }, index) => {
    const first = firstMs === undefined ? '-' : seconds(firstMs);
    const cells = [
      name,
      first,
      String(archived),
      megabytes(rss),
      idle ? `ended by itself, ${status}` : `${seconds(stopMs)} (${status})`,
    ];
    if (index > 0) return [...cells, ''];
    return [...cells, `${goal('first < 1 s', (firstMs ?? Infinity) < 1_000)}, ${goal('RSS < 200 MB', rss < 200e6)}`];
  });
  const head = ['archive-wal', 'first s', 'archived', 'peak RSS MB', 'SIGTERM to end s (status)', 'goal'];
  printTable(`backlog of ${files} files of 1 MiB, watched for ${WATCH_MS / 1000} s after the first`, head, rows);
}
