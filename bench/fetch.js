// get-wal of one segment, start-up included, and the start-up alone.
import fs from 'node:fs';
import path from 'node:path';
import { contendersFor, whyInvalid } from './contenders.js';
import { CLI, median, mustRun, NODE, run, say, withScratch } from './system.js';
import { goal, millis, printTable, times } from './table.js';

/** @typedef {import('./corpus.js').Corpus} Corpus */
/** @typedef {{ name: string, ms: number[], skipped?: string }} Fetched */

const FETCHES_PER_RUN = 10;

/** @param {Corpus} corpus @param {{ runs: number }} options */
export async function benchGet(corpus, options) {
  const few = { ...corpus, names: corpus.names.slice(0, 4) };
  /** @type {Record<string, Fetched[]>} */
  const results = {};
  for (const codec of /** @type {const} */ (['zstd', 'gzip'])) {
    await withScratch(async (scratch) => {
      /** @type {{ result: Fetched, get: (name: string) => import('./system.js').Command, home: string }[]} */
      const ready = [];
      /** @type {Fetched[]} */
      const fetched = [];
      for (const contender of contendersFor(codec).filter(({ kind }) => kind !== 'reference')) {
        const home = path.join(scratch, contender.name.replaceAll(' ', '-'));
        fs.mkdirSync(home);
        const site = await contender.setUp(home, codec, few);
        const ended = await run(site.archive);
        /** @type {Fetched} */
        const result = { name: contender.name, ms: [] };
        fetched.push(result);
        const why =
          ended.status === 0 ? whyInvalid(contender, site, codec, few) : `archive-wal ended with ${ended.status}`;
        if (why !== undefined || site.get === undefined) result.skipped = why ?? 'has no such command';
        else ready.push({ result, get: site.get, home });
      }
      for (let round = 0; round < options.runs * FETCHES_PER_RUN; round++) {
        const name = few.names[round % few.names.length] ?? '';
        if (round % FETCHES_PER_RUN === 0) say(`get-wal ${codec}, run ${round / FETCHES_PER_RUN + 1}`);
        for (const { result, get, home } of ready) {
          if (result.skipped !== undefined) continue;
          const ended = await run(get(name));
          if (ended.status === 0) result.ms.push(ended.ms);
          else result.skipped = `ended with ${ended.signal ?? ended.status}: ${ended.stderr.trim().split('\n').at(-1)}`;
          for (const file of [name, 'fetched']) fs.rmSync(path.join(home, file), { force: true });
        }
      }
      results[codec] = fetched;
    });
    reportGet(codec, results[codec] ?? []);
  }
  return results;
}

/** @param {string} codec @param {Fetched[]} results */
function reportGet(codec, results) {
  const ours = median(results[0]?.ms ?? []);
  const rows = results.map(({ name, ms, skipped }, index) => {
    if (skipped !== undefined) return [name, '-', '-', '-', `no figures: ${skipped}`];
    const verdict = index === 0 ? goal('< 150 ms', median(ms) < 150) : '';
    return [name, millis(Math.min(...ms)), millis(median(ms)), index === 0 ? '' : times(ours / median(ms)), verdict];
  });
  printTable(`get-wal of one 16 MiB segment, ${codec}`, [codec, 'min ms', 'median ms', 'walwarden/it', 'goal'], rows);
}

/** @param {{ runs: number }} options */
export async function benchStartup(options) {
  const commands = [
    { name: 'node -e 0', argv: [NODE, '-e', '0'], ms: /** @type {number[]} */ ([]) },
    { name: 'walwarden --version', argv: [NODE, CLI, '--version'], ms: /** @type {number[]} */ ([]) },
    { name: 'walwarden --help', argv: [NODE, CLI, '--help'], ms: /** @type {number[]} */ ([]) },
  ];
  say('start-up');
  for (let round = 0; round < options.runs * 10; round++) {
    for (const command of commands) command.ms.push((await mustRun({ argv: command.argv })).ms);
  }
  const base = median(commands[0]?.ms ?? []);
  const rows = commands.map(({ name, ms }, index) => {
    const ratio = median(ms) / base;
    const verdict = index === 1 ? goal('<= 1.50x', ratio <= 1.5) : '';
    return [name, millis(Math.min(...ms)), millis(median(ms)), times(ratio), verdict];
  });
  printTable('start-up', ['command', 'min ms', 'median ms', 'of node', 'goal'], rows);
  return commands.map(({ name, ms }) => ({ name, ms }));
}
