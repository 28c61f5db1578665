// archive-wal into a bucket and get-wal from it, beside Barman's cloud client and beside the endpoint's own limit.
import fs from 'node:fs';
import path from 'node:path';
import { contendersFor, MAGIC } from './contenders.js';
import { s3ContendersFor, s3Fetchers, USUAL_PARALLEL } from './s3-contenders.js';
import { bytesOf, countRequests, deleteBelow, download, keysBelow, withS3 } from './s3-endpoint.js';
import { median, peakRss, run, say, settle, withScratch } from './system.js';
import { goal, megabytes, millis, printTable, seconds, times } from './table.js';

/** @typedef {import('./corpus.js').Corpus} Corpus */
/** @typedef {import('./s3-contenders.js').S3Codec} S3Codec */
/** @typedef {import('./s3-contenders.js').S3Contender} S3Contender */
/** @typedef {import('./s3-endpoint.js').S3Endpoint} S3Endpoint */
/** @typedef {import('./system.js').Command} Command */

/**
 * @typedef {object} S3Result
 * @property {S3Contender} contender
 * @property {number[]} ms
 * @property {number[]} cpu milliseconds of user and system time
 * @property {number} [rss]
 * @property {Record<string, number>} [requests]
 * @property {string} [skipped] why there are no figures
 */

const RSS_GOAL = 200e6;
const TIMES_BARMAN = 3;
const OF_ENDPOINT = 0.8;
const FETCHES_PER_RUN = 10;

/** @param {Corpus} corpus @param {{ runs: number, codecs: string[] }} options */
export function benchS3(corpus, options) {
  /** @type {S3Codec[]} */
  const known = ['none', 'zstd', 'gzip'];
  const codecs = known.filter((codec) => options.codecs.includes(codec));
  return withS3(async (endpoint) => {
    /** @type {Record<string, unknown>} */
    const results = { endpoint: endpoint.name };
    for (const codec of codecs) {
      results[codec] = await withScratch(async (scratch) => {
        const stored = path.join(scratch, 'stored');
        const bytes = await storeOnce(corpus, codec, endpoint, stored, scratch);
        const archived = await archiveAll(corpus, codec, endpoint, stored, options.runs);
        const compressor = await compressorAlone(corpus, codec, options.runs);
        reportArchive({ corpus, codec, endpoint, bytes, archived, compressor });
        const fetched = await fetchMany(corpus, codec, endpoint, scratch, options.runs);
        reportFetched(codec, fetched);
        await deleteBelow(endpoint, KEPT);
        return { bytes, archived: archived.map(withoutSetUp), compressor, fetched };
      });
    }
    return results;
  });
}

/** What was stored for the others to use. */
const KEPT = 'kept';

/** The bytes that we store, as files, and as objects below KEPT. Returns how many bytes. @param {Corpus} corpus @param {S3Codec} codec @param {S3Endpoint} endpoint @param {string} stored @param {string} scratch */
async function storeOnce(corpus, codec, endpoint, stored, scratch) {
  const home = path.join(scratch, 'kept');
  fs.mkdirSync(home);
  const contender = usual(s3ContendersFor(codec));
  const command = await contender.setUp({ home, url: endpoint.url, prefix: KEPT, corpus, stored, endpoint });
  say(`S3 ${codec}: storing what the others send`);
  const { status, stderr } = await run(command);
  if (status !== 0) throw new Error(`archive-wal to ${endpoint.url} ended with ${status}: ${stderr}`);
  await download(endpoint, `${KEPT}/main/wals/`, stored);
  return fs.readdirSync(stored).reduce((sum, name) => sum + fs.statSync(path.join(stored, name)).size, 0);
}

/** @param {S3Contender[]} contenders */
function usual(contenders) {
  const found = contenders.find(({ kind, parallel }) => kind === 'ours' && parallel === USUAL_PARALLEL);
  if (found === undefined) throw new Error('nobody archives as is usual');
  return found;
}

/** @param {Corpus} corpus @param {S3Codec} codec @param {S3Endpoint} endpoint @param {string} stored @param {number} runs */
async function archiveAll(corpus, codec, endpoint, stored, runs) {
  /** @type {S3Result[]} */
  const results = s3ContendersFor(codec).map((contender) => ({ contender, ms: [], cpu: [] }));
  for (let round = 1; round <= runs; round++) {
    for (const result of results) {
      if (result.skipped !== undefined) continue;
      say(`S3 ${codec}, run ${round}: ${result.contender.name}`);
      await once(result, codec, corpus, endpoint, stored, endpoint.url, async (command) => {
        const ended = await timed(command, result.contender.kind === 'limit');
        result.ms.push(ended.ms);
        result.cpu.push(ended.cpu);
        return ended;
      });
    }
  }
  for (const result of results) {
    if (result.skipped !== undefined || result.contender.kind === 'limit') continue;
    say(`S3 ${codec}, memory and requests: ${result.contender.name}`);
    // The proxy is slower than what stands behind it, so what waits to be sent is as much as it can be.
    result.requests = await countRequests(endpoint.url, (url) =>
      once(result, codec, corpus, endpoint, stored, url, async (command) => {
        const ended = await peakRss(command);
        result.rss = ended.rss;
        return ended;
      }),
    );
  }
  return results;
}

/**
 * @param {S3Result} result @param {S3Codec} codec @param {Corpus} corpus @param {S3Endpoint} endpoint @param {string} stored @param {string} url
 * @param {(command: Command) => Promise<{ status: number | null, signal: string | null, stderr: string }>} measure
 */
async function once(result, codec, corpus, endpoint, stored, url, measure) {
  const prefix = `run-${Math.random().toString(36).slice(2)}`;
  await withScratch(async (scratch) => {
    const home = path.join(scratch, 'home');
    fs.mkdirSync(home);
    const command = await result.contender.setUp({ home, url, prefix, corpus, stored, endpoint });
    await settle();
    const { status, signal, stderr } = await measure(command);
    const why = status === 0 ? await whyInvalid(endpoint, prefix, codec, corpus) : `ended with ${signal ?? status}`;
    if (why === undefined) return;
    result.ms = [];
    result.skipped = `${why}: ${(stderr.trim().split('\n').at(-1) ?? '').slice(0, 120)}`;
    say(`${result.contender.name} fails: ${result.skipped}`);
  });
  await deleteBelow(endpoint, `${prefix}/`);
}

/** @param {S3Endpoint} endpoint @param {string} prefix @param {S3Codec} codec @param {Corpus} corpus */
async function whyInvalid(endpoint, prefix, codec, corpus) {
  const keys = (await keysBelow(endpoint, `${prefix}/`)).filter((key) => /\/[0-9A-F]{24}(\.gz|\.zst)?$/.test(key));
  if (keys.length !== corpus.names.length) return `stored ${keys.length} of ${corpus.names.length}`;
  const head = Buffer.from(await bytesOf(endpoint, keys[0] ?? '')).subarray(0, 4);
  return head.toString('hex').startsWith(MAGIC[codec]) ? undefined : `no ${codec}`;
}

/** Wall and CPU time of a command and all its children; one that times itself says both. @param {Command} command @param {boolean} timesItself */
async function timed(command, timesItself) {
  if (timesItself) {
    const ended = await run(command, { keepStdout: true });
    /** @type {{ ms: number, cpu: number }} */
    const { ms, cpu } = ended.status === 0 ? JSON.parse(ended.stdout) : { ms: NaN, cpu: NaN };
    return { ...ended, ms, cpu };
  }
  const shell = ['sh', '-c', '"$@"; status=$?; times >&2; exit $status', 'sh'];
  const ended = await run({ ...command, argv: [...shell, ...command.argv] });
  const lines = ended.stderr.trimEnd().split('\n');
  return { ...ended, cpu: cpuOf(lines.at(-1) ?? ''), stderr: lines.slice(0, -2).join('\n') };
}

/** `times` of a POSIX shell: `0m1.50s 0m0.25s`, user and system, in its last line those of its children. @param {string} line */
function cpuOf(line) {
  let ms = 0;
  for (const [, minutes, rest] of line.matchAll(/(\d+)m([\d.]+)s/g))
    ms += Number(minutes) * 60_000 + Number(rest) * 1000;
  return ms;
}

/** The same compressor on all CPUs, into files, nothing sent. @param {Corpus} corpus @param {S3Codec} codec @param {number} runs */
async function compressorAlone(corpus, codec, runs) {
  const contender = contendersFor(codec).find(({ kind }) => kind === 'reference');
  if (codec === 'none' || contender === undefined) return undefined;
  /** @type {number[]} */
  const ms = [];
  for (let round = 1; round <= runs; round++) {
    say(`S3 ${codec}, run ${round}: ${contender.name}`);
    await withScratch(async (scratch) => {
      const home = path.join(scratch, 'home');
      fs.mkdirSync(home);
      const { archive } = await contender.setUp(home, codec, corpus);
      await settle();
      ms.push((await run(archive)).ms);
    });
  }
  return { name: contender.name, ms };
}

/** @typedef {{ name: string, ms: number[], skipped?: string }} Fetched */

/** @param {Corpus} corpus @param {S3Codec} codec @param {S3Endpoint} endpoint @param {string} scratch @param {number} runs */
async function fetchMany(corpus, codec, endpoint, scratch, runs) {
  const home = path.join(scratch, 'kept');
  const { fetchers, target } = s3Fetchers(
    { home, url: endpoint.url, prefix: KEPT, corpus, stored: '', endpoint },
    codec,
  );
  fs.mkdirSync(target);
  /** @type {Fetched[]} */
  const results = fetchers.map(({ name }) => ({ name, ms: [] }));
  for (let round = 0; round < runs * FETCHES_PER_RUN; round++) {
    const wal = corpus.names[round % corpus.names.length] ?? '';
    if (round % FETCHES_PER_RUN === 0) say(`S3 get-wal ${codec}, run ${round / FETCHES_PER_RUN + 1}`);
    for (const [index, { get }] of fetchers.entries()) {
      const result = results[index];
      if (result === undefined || result.skipped !== undefined) continue;
      const ended = await run(get(wal));
      const file = path.join(target, wal);
      const whole = fs.existsSync(file) && fs.readFileSync(file).equals(fs.readFileSync(path.join(corpus.walDir, wal)));
      if (ended.status === 0 && whole) result.ms.push(ended.ms);
      else result.skipped = `ended with ${ended.signal ?? ended.status}: ${ended.stderr.trim().split('\n').at(-1)}`;
      fs.rmSync(file, { force: true });
    }
  }
  return results;
}

/** @typedef {{ name: string, ms: number[] } | undefined} CompressorTime */

/** @param {{ corpus: Corpus, codec: S3Codec, endpoint: S3Endpoint, bytes: number, archived: S3Result[], compressor: CompressorTime }} report */
function reportArchive({ corpus, codec, endpoint, bytes, archived, compressor }) {
  const count = corpus.names.length;
  const ofLimit = (/** @type {number} */ parallel) =>
    median(archived.find(({ contender }) => contender.kind === 'limit' && contender.parallel === parallel)?.ms ?? []);
  const sameWork = median(archived.find(({ contender }) => contender.sameWork)?.ms ?? []);
  const compressing = median(compressor?.ms ?? [0]);
  const rows = archived.map((result) => {
    const { contender, ms, cpu, rss, requests, skipped } = result;
    if (skipped !== undefined) return [contender.name, ...Array(8).fill('-'), `no figures: ${skipped}`];
    const time = median(ms);
    const figures = [
      seconds(time),
      seconds(median(cpu)),
      millis(time / count),
      (corpus.bytes / 1e3 / time).toFixed(0),
      megabytes(rss),
      requests === undefined ? '' : inWords(requests),
    ];
    if (contender.kind === 'limit') return [contender.name, ...figures];
    if (contender.kind === 'rival') {
      return [
        contender.name,
        ...figures,
        '',
        '',
        goal(`>= ${TIMES_BARMAN}x`, time / sameWork >= TIMES_BARMAN) + `: ${times(time / sameWork)}`,
      ];
    }
    const alone = ofLimit(contender.parallel) / time;
    const both = (ofLimit(contender.parallel) + compressing) / time;
    // Of another level: what is sent is not what the limit was measured with.
    const comparable = !contender.name.includes('level');
    const goals = [];
    if (comparable) goals.push(goal(`>= ${OF_ENDPOINT}`, (codec === 'none' ? alone : both) >= OF_ENDPOINT));
    if (rss !== undefined && contender.parallel <= USUAL_PARALLEL) goals.push(goal('RSS < 200 MB', rss < RSS_GOAL));
    return [
      contender.name,
      ...figures,
      ...(comparable ? [ratio(alone), compressor === undefined ? '' : ratio(both)] : ['', '']),
      goals.join(', '),
    ];
  });
  if (compressor !== undefined) rows.push([`${compressor.name}, into files`, seconds(compressing)]);
  const head = [
    codec,
    's',
    'CPU s',
    'ms each',
    'MB/s of WAL',
    'peak RSS MB',
    'requests',
    'of PUT',
    'of compr.+PUT',
    'goal',
  ];
  const title =
    `archive-wal to S3, ${count} segments of 16 MiB, ${codec}: ${megabytes(bytes)} MB stored; ` +
    `medians of ${archived[0]?.ms.length ?? 0} runs; ${endpoint.name}`;
  printTable(title, head, rows);
  console.log(`\n${FOOTNOTE[codec]}`);
}

const ONE_MACHINE =
  '`of PUT`: the time of the plain PUTs, with the SDK, of the very bytes that we store, read into memory before, by our time from\n' +
  'start to exit. The endpoint takes its CPU from the same cores as we do, so whatever else we do (start, read, verify, SHA-256 of\n' +
  'every file) comes on top of it';

/** @type {Record<S3Codec, string>} */
const FOOTNOTE = {
  none: `${ONE_MACHINE}.`,
  zstd: `${ONE_MACHINE}, compression most of all: the goal is judged by the sum of the compressor alone, on all cores, and the PUTs.`,
  gzip:
    `${ONE_MACHINE}, compression most of all: the goal is judged by the sum of the compressor alone, on all cores, and the PUTs.\n` +
    `Barman's cloud client always compresses at level 9, so it is compared with ours at level 9.`,
};

/** @param {Record<string, number>} requests */
function inWords(requests) {
  return Object.entries(requests)
    .toSorted(([, a], [, b]) => b - a)
    .map(([kind, count]) => `${count} ${kind}`)
    .join(' ');
}

/** @param {number} value */
const ratio = (value) => (Number.isNaN(value) ? '' : value.toFixed(2));

/** @param {S3Codec} codec @param {Fetched[]} results */
function reportFetched(codec, results) {
  const ours = median(results[0]?.ms ?? []);
  const rows = results.map(({ name, ms, skipped }, index) => {
    if (skipped !== undefined) return [name, '-', '-', '-', `no figures: ${skipped}`];
    return [name, millis(Math.min(...ms)), millis(median(ms)), index === 0 ? '' : times(ours / median(ms))];
  });
  const title = `one 16 MiB segment from S3, start-up included, ${codec}`;
  printTable(title, [codec, 'min ms', 'median ms', 'walwarden/it', ''], rows);
}

/** @param {S3Result} result */
function withoutSetUp({ contender, ...figures }) {
  const { name, kind, parallel } = contender;
  return { name, kind, parallel, ...figures };
}
