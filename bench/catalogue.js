// A catalogue of a million lines: how long to list it, and does appending depend on its size?
import fs from 'node:fs';
import path from 'node:path';
import { walwarden } from './contenders.js';
import { median, NODE, CLI, peakRss, run, say, settle, storedWals, withScratch } from './system.js';
import { goal, megabytes, printTable, seconds, times } from './table.js';

/** @param {import('./corpus.js').Corpus} corpus @param {{ runs: number, lines: number }} options */
export async function benchCatalogue(corpus, options) {
  const list = await withScratch(async (scratch) => {
    const home = path.join(scratch, 'home');
    await walwarden.setUp(home, 'zstd', { ...corpus, names: corpus.names.slice(0, 1) });
    writeCatalogue(home, options.lines);
    const command = { argv: [NODE, CLI, '-c', path.join(home, 'barman.conf'), 'list-wals', 'main'], cwd: home };
    const ms = [];
    let status = 'none';
    for (let round = 0; round < options.runs; round++) {
      say(`list-wals of ${options.lines} lines, run ${round + 1}`);
      const ended = await run(command);
      ms.push(ended.ms);
      status = String(ended.signal ?? ended.status);
    }
    return { ms, status, rss: (await peakRss(command)).rss };
  });
  const append = {
    empty: await appendTo(corpus, 0, options.runs),
    full: await appendTo(corpus, options.lines, options.runs),
  };
  const ratio = median(append.full) / median(append.empty);
  printTable(
    `catalogue of ${options.lines} lines`,
    ['command', 'median s', 'peak RSS MB', 'ratio', 'goal'],
    [
      [
        `list-wals (status ${list.status})`,
        seconds(median(list.ms)),
        megabytes(list.rss),
        '',
        goal('< 1.5 s', list.status === '0' && median(list.ms) < 1_500),
      ],
      ['archive-wal of 4, empty catalogue', seconds(median(append.empty)), '', '', ''],
      [
        'archive-wal of 4, full catalogue',
        seconds(median(append.full)),
        '',
        times(ratio),
        goal('<= 1.20x', ratio <= 1.2),
      ],
    ],
  );
  return { lines: options.lines, list, append };
}

/** @param {import('./corpus.js').Corpus} corpus @param {number} lines @param {number} runs */
async function appendTo(corpus, lines, runs) {
  /** @type {number[]} */
  const ms = [];
  for (let round = 0; round < runs; round++) {
    await withScratch(async (scratch) => {
      const home = path.join(scratch, 'home');
      const site = await walwarden.setUp(home, 'zstd', { ...corpus, names: corpus.names.slice(-4) });
      if (lines > 0) writeCatalogue(home, lines);
      await settle();
      const { status, ms: took } = await run(site.archive);
      // Without a full result there is no figure: NaN shows as one that misses its goal.
      ms.push(status === 0 && storedWals(site.stored).length === 4 ? took : NaN);
    });
  }
  return ms;
}

/**
 * Names below those of the corpus' timeline, so that what comes now is appended.
 * @param {string} home @param {number} lines
 */
function writeCatalogue(home, lines) {
  const file = fs.openSync(path.join(home, 'main', 'wals', 'main-xlog.db'), 'wx', 0o600);
  const hex = (/** @type {number} */ value) => value.toString(16).toUpperCase().padStart(8, '0');
  let chunk = '';
  for (let line = 0; line < lines; line++) {
    chunk += `00000000${hex(line >>> 8)}${hex(line & 0xff)}\t4123456\t${1_700_000_000 + line}.25\tzstd\tNone\n`;
    if (chunk.length < 1 << 20 && line < lines - 1) continue;
    fs.writeSync(file, chunk);
    chunk = '';
  }
  fs.closeSync(file);
}
