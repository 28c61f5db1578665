// npm run bench -- [--only archive,pages,get,s3,backlog,startup,catalogue,rpo,daemon] [--codecs zstd,lz4,gzip,none] [--runs N]
//                  [--segments N] [--files N] [--lines N] [--json FILE]
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { benchArchive } from './archive.js';
import { benchBacklog } from './backlog.js';
import { benchCatalogue } from './catalogue.js';
import { makeCorpus } from './corpus.js';
import { benchDaemon } from './daemon.js';
import { benchGet, benchStartup } from './fetch.js';
import { benchPages } from './pages.js';
import { benchRpo } from './rpo.js';
import { benchS3 } from './s3.js';
import { CLI, ROOT, say } from './system.js';

/** @typedef {import('./contenders.js').Codec} Codec */

const PARTS = ['archive', 'pages', 'get', 's3', 'backlog', 'startup', 'catalogue', 'rpo', 'daemon'];
/** @type {Codec[]} */
const CODECS = ['zstd', 'lz4', 'gzip', 'none'];

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: PARTS.join(',') },
    codecs: { type: 'string', default: CODECS.join(',') },
    runs: { type: 'string', default: '3' },
    segments: { type: 'string', default: '64' },
    files: { type: 'string', default: '100000' },
    lines: { type: 'string', default: '1000000' },
    json: { type: 'string' },
  },
});
const parts = choice('only', values.only, PARTS);
const codecs = choice('codecs', values.codecs, CODECS);
const runs = count('runs', values.runs);
if (!fs.existsSync(CLI)) fail(`${CLI} is not there: npm run build`);

const corpus = await makeCorpus(count('segments', values.segments));
const machine = {
  date: new Date().toISOString(),
  commit: commit(),
  node: process.version,
  cpus: `${os.availableParallelism()} x ${os.cpus()[0]?.model ?? 'unknown'}`,
  memory: os.totalmem(),
  kernel: os.release(),
  corpus: `${corpus.names.length} segments: ${corpus.origin}`,
};
console.log(`${machine.cpus}, Node ${machine.node}, ${machine.corpus}; ${runs} runs, interleaved`);

/** @type {Record<string, unknown>} */
const results = {};
if (parts.includes('archive')) results['archive'] = await benchArchive(corpus, { runs, codecs });
if (parts.includes('pages')) results['pages'] = await benchPages(corpus, { runs, codecs });
if (parts.includes('get')) results['get'] = await benchGet(corpus, { runs });
if (parts.includes('s3')) results['s3'] = await benchS3(corpus, { runs, codecs });
if (parts.includes('backlog')) results['backlog'] = await benchBacklog(corpus, { files: count('files', values.files) });
if (parts.includes('startup')) results['startup'] = await benchStartup({ runs });
if (parts.includes('catalogue')) {
  results['catalogue'] = await benchCatalogue(corpus, { runs, lines: count('lines', values.lines) });
}
if (parts.includes('rpo')) results['rpo'] = await benchRpo({ runs });
if (parts.includes('daemon'))
  results['daemon'] = await benchDaemon(corpus, { runs, files: count('files', values.files) });

const json = values.json ?? path.join(ROOT, 'bench', 'results', `${machine.date.replaceAll(':', '')}.json`);
fs.mkdirSync(path.dirname(json), { recursive: true });
fs.writeFileSync(json, `${JSON.stringify({ machine, runs, results }, undefined, 2)}\n`);
say(`\nwritten to ${json}`);

/** @template {string} T @param {string} flag @param {string} text @param {T[]} allowed @returns {T[]} */
function choice(flag, text, allowed) {
  return text.split(',').map((name) => {
    const known = allowed.find((candidate) => candidate === name);
    return known ?? fail(`--${flag}: expected some of ${allowed.join(',')}, found ${name}`);
  });
}

/** @param {string} flag @param {string} text */
function count(flag, text) {
  if (!/^[1-9]\d*$/.test(text)) fail(`--${flag}: expected a positive number, found ${text}`);
  return Number(text);
}

function commit() {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd: ROOT, encoding: 'utf8' }).trim();
  } catch {
    // Not a checkout.
    return 'unknown';
  }
}

/** @param {string} message @returns {never} */
function fail(message) {
  say(`bench: ${message}`);
  process.exit(2);
}
