// What the look at every page of a segment costs, in the staging that archive-wal's threads do: with and without it, interleaved.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { goal, printTable } from './table.js';
import { median, ROOT, say, settle, withScratch } from './system.js';

/** @typedef {import('./contenders.js').Codec} Codec */
/** @typedef {import('./corpus.js').Corpus} Corpus */

const GOAL = 0.03;

/** What is compressed in this process: the CPU time of programs is not ours to see. */
/** @type {Codec[]} */
const IN_PROCESS = ['zstd', 'none'];

/** @param {Corpus} corpus @param {{ runs: number, codecs: Codec[] }} options */
export async function benchPages(corpus, options) {
  /** @type {Record<string, { codec: Codec, with: number, without: number, share: number }>} */
  const results = {};
  await withScratch(async (scratch) => {
    // Inside the tree, so that its packages are found.
    const bundle = path.join(ROOT, 'bench', 'results', `staging-${process.pid}.mjs`);
    fs.mkdirSync(path.dirname(bundle), { recursive: true });
    try {
      const entry = path.join(ROOT, 'src', 'storage', 'staging.ts');
      await build({
        entryPoints: [entry],
        outfile: bundle,
        bundle: true,
        packages: 'external',
        platform: 'node',
        format: 'esm',
      });
      /** @type {{ stageWal: (task: object) => Promise<{ outcome: string, reason?: string }> }} */
      const staging = await import(pathToFileURL(bundle).href);
      for (const codec of IN_PROCESS.filter((one) => options.codecs.includes(one))) {
        /** @type {Record<'with' | 'without', number[]>} */
        const cpu = { with: [], without: [] };
        for (let round = 0; round <= options.runs; round++) {
          say(`pages ${codec}, ${round === 0 ? 'warming up' : `run ${round}`}`);
          await settle();
          for (const [index, name] of corpus.names.entries()) {
            const both = /** @type {('with' | 'without')[]} */ (['with', 'without']);
            for (const kind of (round + index) % 2 === 0 ? both : both.toReversed()) {
              const used = await stage(staging.stageWal, path.join(corpus.walDir, name), name, codec, kind, scratch);
              if (round > 0) cpu[kind].push(used);
            }
          }
        }
        const [all, none] = [median(cpu.with), median(cpu.without)];
        results[codec] = { codec, with: all, without: none, share: (all - none) / none };
      }
    } finally {
      fs.rmSync(bundle, { force: true });
    }
  });
  printTable(
    'CPU time of staging a segment of 16 MiB, with the look at every page and without (milliseconds, median)',
    ['codec', 'with', 'without', 'share'],
    Object.values(results).map((row) => {
      const share = `${(row.share * 100).toFixed(1)} %`;
      return [
        row.codec,
        row.with.toFixed(2),
        row.without.toFixed(2),
        row.codec === 'zstd' ? goal(`${share} (at most ${GOAL * 100} %)`, row.share <= GOAL) : share,
      ];
    }),
  );
  return results;
}

/**
 * Milliseconds of CPU time.
 * @param {(task: object) => Promise<{ outcome: string, reason?: string }>} stageWal
 * @param {string} source @param {string} name @param {Codec} codec @param {'with' | 'without'} kind @param {string} scratch
 */
async function stage(stageWal, source, name, codec, kind, scratch) {
  const { dev, ino, size, mtimeNs } = fs.statSync(source, { bigint: true });
  const temporary = path.join(scratch, 'staged');
  const before = process.cpuUsage();
  const staged = await stageWal({
    name,
    source,
    identity: { dev, ino, size, mtimeNs },
    temporary,
    mode: 0o600,
    compression: codec === 'none' ? null : { compression: codec },
    encryption: null,
    rules: { opaque: null, asTheyAre: kind === 'with' ? [] : 'any' },
  });
  const { user, system } = process.cpuUsage(before);
  if (staged.outcome !== 'staged') throw new Error(`${name}: ${staged.outcome} ${staged.reason ?? ''}`);
  fs.rmSync(temporary);
  return (user + system) / 1000;
}
