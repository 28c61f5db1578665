// Who archives to S3 and fetches from there; each one has a prefix of its own.
import fs from 'node:fs';
import path from 'node:path';
import { copyCorpus } from './contenders.js';
import { CLI, NODE, ROOT, versionOf, which } from './system.js';

/** @typedef {import('./system.js').Command} Command */
/** @typedef {import('./corpus.js').Corpus} Corpus */
/** @typedef {import('./s3-endpoint.js').S3Endpoint} S3Endpoint */
/** @typedef {'zstd' | 'gzip' | 'none'} S3Codec */

/**
 * @typedef {object} S3Run
 * @property {string} home empty
 * @property {string} url of the endpoint, or of what stands before it
 * @property {string} prefix
 * @property {Corpus} corpus
 * @property {string} stored files with the bytes that we store, for whoever only sends them
 * @property {S3Endpoint} endpoint
 */

/**
 * @typedef {object} S3Contender
 * @property {string} name
 * @property {'ours' | 'rival' | 'limit'} kind
 * @property {number} parallel
 * @property {boolean} [sameWork] of ours: what the rival's row is compared with
 * @property {(run: S3Run) => Promise<Command>} setUp everything that is not timed; returns what archives the corpus
 */

/** Barman's gzip has no options: Python's default, 9. */
const BARMAN_GZIP_LEVEL = 9;

/** @type {Record<S3Codec, string>} */
const COMPRESSION = {
  zstd: 'compression = zstd\ncompression_level = 3\n',
  gzip: 'compression = gzip\ncompression_level = 6\n',
  none: '',
};

/** @param {S3Run} run @param {string} options */
export function walwardenCommand({ home, url, prefix, endpoint }, options) {
  for (const name of ['incoming', 'errors', 'streaming', 'wals']) {
    fs.mkdirSync(path.join(home, 'main', name), { recursive: true, mode: 0o700 });
  }
  const conf = path.join(home, 'walwarden.conf');
  fs.writeFileSync(
    conf,
    `[barman]\nbarman_home = ${home}\nbarman_user = ${versionOf(['id', '-un'])}\nbarman_lock_directory = ${home}\n` +
      `log_file = ${home}/log\n\n[main]\ndescription = bench\nbackup_method = postgres\narchiver = on\n` +
      `wals_directory = s3://${endpoint.bucket}/${prefix}\naws_endpoint_url = ${url}\naws_region = ${endpoint.region}\n` +
      `aws_force_path_style = on\n${options}`,
  );
  return (/** @type {string[]} */ ...args) => ({
    argv: [NODE, CLI, '-q', '-c', conf, ...args],
    env: endpoint.env,
    cwd: home,
  });
}

/** @param {string} name @param {number} parallel @param {string} compression @returns {S3Contender} */
function walwarden(name, parallel, compression) {
  return {
    name,
    kind: 'ours',
    parallel,
    async setUp(run) {
      const command = walwardenCommand(run, `${compression}cloud_wal_archive_parallel = ${parallel}\n`);
      await copyCorpus(run.corpus, path.join(run.home, 'main', 'incoming'));
      return command('archive-wal', 'main');
    },
  };
}

/** One process a segment, as PostgreSQL calls it. @param {S3Codec} codec @returns {S3Contender[]} */
function barmanCloud(codec) {
  if (which('barman-cloud-wal-archive') === undefined || codec === 'zstd') return [];
  return [
    {
      name: `barman-cloud-wal-archive ${versionOf(['barman-cloud-wal-archive', '--version']).split(' ').at(-1)}`,
      kind: 'rival',
      parallel: 1,
      async setUp({ home, url, prefix, corpus, endpoint }) {
        const command = `barman-cloud-wal-archive --endpoint-url ${url} ${codec === 'gzip' ? '--gzip' : ''}`;
        const calls = corpus.names.map(
          (name) => `${command} s3://${endpoint.bucket}/${prefix} main ${path.join(corpus.walDir, name)} || exit 1`,
        );
        const script = path.join(home, 'archive.sh');
        fs.writeFileSync(script, `${calls.join('\n')}\n`);
        return { argv: ['sh', script], env: endpoint.env, cwd: home };
      },
    },
  ];
}

/** Only PUTs of what we store. @param {number} parallel @returns {S3Contender} */
function plainPuts(parallel) {
  return {
    name: `plain PUTs, ${parallel} in parallel`,
    kind: 'limit',
    parallel,
    async setUp({ url, prefix, stored, endpoint }) {
      const script = path.join(ROOT, 'bench', 'put-objects.js');
      const argv = [NODE, script, url, endpoint.region, endpoint.bucket, prefix, stored, String(parallel)];
      return { argv, env: endpoint.env };
    },
  };
}

export const PARALLEL = [1, 4, 8];
/** What cloud_wal_archive_parallel is when nobody sets it. */
export const USUAL_PARALLEL = 4;

/** @param {S3Codec} codec @returns {S3Contender[]} */
export function s3ContendersFor(codec) {
  const ours = PARALLEL.map((parallel) =>
    walwarden(`walwarden, ${parallel} in parallel`, parallel, COMPRESSION[codec]),
  );
  const rivals = barmanCloud(codec);
  if (codec === 'gzip' && rivals.length > 0) {
    const compression = `compression = gzip\ncompression_level = ${BARMAN_GZIP_LEVEL}\n`;
    ours.push(walwarden(`walwarden, level ${BARMAN_GZIP_LEVEL} as Barman`, USUAL_PARALLEL, compression));
  }
  const same = ours.find(
    (one, index) => one.parallel === USUAL_PARALLEL && (codec !== 'gzip' || index >= PARALLEL.length),
  );
  if (same !== undefined) same.sameWork = true;
  return [...ours, ...rivals, ...PARALLEL.map(plainPuts)];
}

/** One segment of what walwarden stored, to `fetched` below the home. @param {S3Run} run @param {S3Codec} codec */
export function s3Fetchers(run, codec) {
  const command = walwardenCommand(run, COMPRESSION[codec]);
  const target = path.join(run.home, 'fetched');
  /** @type {{ name: string, get: (wal: string) => Command }[]} */
  const fetchers = [{ name: 'walwarden get-wal', get: (wal) => command('get-wal', '-o', target, 'main', wal) }];
  if (which('barman-cloud-wal-restore') !== undefined && codec !== 'zstd') {
    const { endpoint, url, prefix } = run;
    const argv = ['barman-cloud-wal-restore', '--endpoint-url', url, `s3://${endpoint.bucket}/${prefix}`, 'main'];
    fetchers.push({
      name: 'barman-cloud-wal-restore',
      get: (wal) => ({ argv: [...argv, wal, path.join(target, wal)], env: endpoint.env, cwd: run.home }),
    });
  }
  return { fetchers, target };
}
