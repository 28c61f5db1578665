// archive-wal of the whole corpus, every codec, everybody on a fresh copy.
import fs from 'node:fs';
import path from 'node:path';
import { contendersFor, whyInvalid } from './contenders.js';
import { goal, megabytes, printTable, seconds, times } from './table.js';
import { countSyncs, median, peakRss, run, say, settle, withScratch } from './system.js';

/** @typedef {import('./contenders.js').Codec} Codec */
/** @typedef {import('./contenders.js').Contender} Contender */
/** @typedef {import('./corpus.js').Corpus} Corpus */

/**
 * @typedef {object} Result
 * @property {string} name
 * @property {Contender['kind']} kind
 * @property {number[]} ms
 * @property {number} [rss]
 * @property {number} [syncs]
 * @property {string} [skipped] why there are no figures
 */

const RSS_GOAL = 200e6;
/**
 * The goal is one file fsync a segment and a constant for each commit group.
 * From outside we can't see the groups; half a sync a segment is our allowance for them.
 */
const syncsGoal = (/** @type {number} */ segments) => Math.max(segments + 16, segments * 1.5);

/** @param {Corpus} corpus @param {{ runs: number, codecs: Codec[] }} options */
export async function benchArchive(corpus, options) {
  /** @type {Record<string, Result[]>} */
  const results = {};
  for (const codec of options.codecs) {
    const contenders = contendersFor(codec);
    /** @type {Result[]} */
    const byName = contenders.map(({ name, kind }) => ({ name, kind, ms: [] }));
    for (let round = 1; round <= options.runs; round++) {
      for (const [index, contender] of contenders.entries()) {
        const result = byName[index];
        if (result === undefined || result.skipped !== undefined) continue;
        say(`archive ${codec}, run ${round}: ${contender.name}`);
        await once(contender, codec, corpus, result, async (command) => {
          const ended = await run(command);
          result.ms.push(ended.ms);
          return ended;
        });
      }
    }
    for (const [index, contender] of contenders.entries()) {
      const result = byName[index];
      if (result === undefined || result.skipped !== undefined) continue;
      say(`archive ${codec}, memory and fsyncs: ${contender.name}`);
      await once(contender, codec, corpus, result, async (command) => {
        const ended = await peakRss(command);
        result.rss = ended.rss;
        return ended;
      });
      if (contender.kind === 'reference') continue;
      await once(contender, codec, corpus, result, async (command) => {
        const syncs = await countSyncs(command);
        if (syncs !== undefined) result.syncs = syncs;
        return { status: 0, signal: null, stderr: '' };
      });
    }
    report(codec, byName, corpus);
    results[codec] = byName;
  }
  return results;
}

/**
 * @param {Contender} contender @param {Codec} codec @param {Corpus} corpus @param {Result} result
 * @param {(command: import('./system.js').Command) => Promise<{ status: number | null, signal: string | null, stderr: string }>} measure
 */
async function once(contender, codec, corpus, result, measure) {
  await withScratch(async (scratch) => {
    const home = path.join(scratch, 'home');
    fs.mkdirSync(home);
    const site = await contender.setUp(home, codec, corpus);
    await settle();
    const { status, signal, stderr } = await measure(site.archive);
    const why = status === 0 ? whyInvalid(contender, site, codec, corpus) : `ended with ${signal ?? status}`;
    if (why === undefined) return;
    const said = stderr.trim().split('\n').at(-1) ?? '';
    result.ms = [];
    result.skipped = said === '' ? why : `${why}: ${said.slice(0, 120)}`;
    if (contender.kind === 'ours') say(`walwarden fails: ${result.skipped}`);
  });
}

/** What our time may be at most, as a multiple of theirs (spec 04). @param {Codec} codec @param {Result} other */
function limit(codec, other) {
  if (other.kind === 'reference') return codec === 'zstd' ? 1.15 : undefined;
  if (codec === 'none') return other.name.startsWith('Barman') ? 1 : undefined;
  if (codec === 'zstd') return other.name.startsWith('Barman') ? 1 / 1.8 : 1 / 1.1;
  return 1;
}

/** @param {Codec} codec @param {Result[]} results @param {Corpus} corpus */
function report(codec, results, corpus) {
  const ours = results.find(({ kind }) => kind === 'ours');
  const ourTime = median(ours?.ms ?? []);
  const rows = results.map((result) => {
    if (result.skipped !== undefined) return [result.name, `no figures: ${result.skipped}`];
    const figures = [
      seconds(Math.min(...result.ms)),
      seconds(median(result.ms)),
      megabytes(result.rss),
      String(result.syncs ?? ''),
    ];
    if (result.kind === 'ours') return [result.name, ...figures, '', goalsOfOurs(result, corpus)];
    const ratio = ourTime / median(result.ms);
    const most = limit(codec, result);
    const verdict = most === undefined || Number.isNaN(ratio) ? '' : goal(`<= ${most.toFixed(2)}x`, ratio <= most);
    return [result.name, ...figures, times(ratio), verdict];
  });
  const head = [codec, 'min s', 'median s', 'peak RSS MB', 'fsyncs', 'walwarden/it', 'goal'];
  printTable(`archive-wal, ${corpus.names.length} segments of 16 MiB, ${codec}`, head, alignSkipped(rows, head.length));
}

/** @param {Result} result @param {Corpus} corpus */
function goalsOfOurs({ rss, syncs }, corpus) {
  const parts = [];
  const most = syncsGoal(corpus.names.length);
  if (rss !== undefined) parts.push(goal('RSS < 200 MB', rss < RSS_GOAL));
  if (syncs !== undefined) parts.push(goal(`fsyncs <= ${most}`, syncs <= most));
  return parts.join(', ');
}

/** The reason of a skipped row stands in its last column. @param {(string | undefined)[][]} rows @param {number} columns */
function alignSkipped(rows, columns) {
  return rows.map((row) => (row.length === 2 ? [row[0], ...Array(columns - 2).fill('-'), row[1]] : row));
}
