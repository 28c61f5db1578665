// Who archives and fetches: each one sets up a home of its own and says with what command it works there.
import fs from 'node:fs';
import path from 'node:path';
import { CLI, mustRun, NODE, storedWals, versionOf, which } from './system.js';

/** @typedef {import('./system.js').Command} Command */
/** @typedef {import('./corpus.js').Corpus} Corpus */
/** @typedef {'zstd' | 'lz4' | 'gzip' | 'none'} Codec */

/**
 * @typedef {object} Contender
 * @property {string} name
 * @property {'ours' | 'rival' | 'reference'} kind
 * @property {(home: string, codec: Codec, corpus: Corpus) => Promise<Site>} setUp everything that is not timed
 */

/**
 * @typedef {object} Site
 * @property {Command} archive all of the corpus
 * @property {string} stored the directory that holds the result
 * @property {((name: string) => Command) | undefined} [get] one segment to `fetched` below the home
 */

export const MAGIC = { zstd: '28b52ffd', lz4: '04224d18', gzip: '1f8b08', none: '' };

/** Copies of the corpus, on the file system of the home. @param {Corpus} corpus @param {string} to */
export async function copyCorpus(corpus, to) {
  fs.mkdirSync(to, { recursive: true });
  await mustRun({
    argv: [
      'cp',
      '--reflink=auto',
      '--preserve=timestamps',
      '-t',
      to,
      ...corpus.names.map((name) => path.join(corpus.walDir, name)),
    ],
  });
}

/** @type {Record<Codec, string>} */
const BARMAN_LEVEL = {
  zstd: 'compression = zstd\ncompression_level = 3\n',
  lz4: 'compression = lz4\ncompression_level = 0\n',
  gzip: 'compression = gzip\ncompression_level = 6\n',
  none: '',
};

/** @param {string} home @param {string} options */
function writeBarmanHome(home, options) {
  for (const name of ['incoming', 'wals', 'streaming', 'errors', 'base']) {
    fs.mkdirSync(path.join(home, 'main', name), { recursive: true, mode: 0o700 });
  }
  const user = versionOf(['id', '-un']);
  const conf = path.join(home, 'barman.conf');
  fs.writeFileSync(
    conf,
    `[barman]\nbarman_home = ${home}\nbarman_user = ${user}\nbarman_lock_directory = ${home}\nlog_file = ${home}/log\n` +
      `\n[main]\ndescription = bench\nconninfo = host=/nonexistent user=x dbname=x\nbackup_method = postgres\n` +
      `streaming_conninfo = host=/nonexistent user=x\narchiver = on\n${options}`,
  );
  return conf;
}

/** @type {Contender} */
export const walwarden = {
  name: 'walwarden',
  kind: 'ours',
  async setUp(home, codec, corpus) {
    const conf = writeBarmanHome(home, BARMAN_LEVEL[codec]);
    await copyCorpus(corpus, path.join(home, 'main', 'incoming'));
    const command = (/** @type {string[]} */ ...args) => ({ argv: [NODE, CLI, '-q', '-c', conf, ...args], cwd: home });
    return {
      archive: command('archive-wal', 'main'),
      stored: path.join(home, 'main', 'wals'),
      get: (name) => command('get-wal', '-o', home, 'main', name),
    };
  },
};

/** @returns {Contender[]} */
function barmans() {
  /** @type {Contender[]} */
  const found = [];
  const checkout = process.env['BARMAN_CHECKOUT'];
  /** @type {[string, string[], Record<string, string>, boolean][]} */
  const programs = [];
  if (which('barman') !== undefined) programs.push([versionOf(['barman', '--version']), ['barman'], {}, false]);
  if (checkout !== undefined && checkout !== '') {
    const version = /__version__ = "(.*)"/.exec(
      fs.readFileSync(path.join(checkout, 'barman', 'version.py'), 'utf8'),
    )?.[1];
    programs.push([
      version ?? '?',
      ['python3', '-c', 'from barman.cli import main; main()'],
      { PYTHONPATH: checkout },
      true,
    ]);
  }
  for (const [version, argv, env, levels] of programs) {
    found.push({
      name: `Barman ${version.split(' ')[0]}`,
      kind: 'rival',
      async setUp(home, codec, corpus) {
        // Barman before 3.12 has no levels, and its gzip is the program's default: 6.
        const options = levels || codec === 'none' ? BARMAN_LEVEL[codec] : `compression = ${codec}\n`;
        const conf = writeBarmanHome(home, options);
        await copyCorpus(corpus, path.join(home, 'main', 'incoming'));
        const command = (/** @type {string[]} */ ...args) => ({
          argv: [...argv, '-q', '-c', conf, ...args],
          env,
          cwd: home,
        });
        return {
          archive: command('archive-wal', 'main'),
          stored: path.join(home, 'main', 'wals'),
          get: (name) => command('get-wal', '-o', home, 'main', name),
        };
      },
    });
  }
  return found;
}

/** @type {Contender} */
const pgBackRest = {
  name: `pgBackRest ${which('pgbackrest') === undefined ? '' : versionOf(['pgbackrest', 'version']).replace('pgBackRest ', '')}`,
  kind: 'rival',
  async setUp(home, codec, corpus) {
    const pgData = path.join(home, 'data');
    await mustRun({ argv: ['cp', '-r', corpus.pgData, pgData] });
    await copyCorpus(corpus, path.join(pgData, 'pg_wal'));
    const status = path.join(pgData, 'pg_wal', 'archive_status');
    fs.mkdirSync(status);
    for (const name of corpus.names) fs.writeFileSync(path.join(status, `${name}.ready`), '');
    for (const name of ['repo', 'spool', 'lock', 'log']) fs.mkdirSync(path.join(home, name));
    const type = {
      zstd: 'zst\ncompress-level=3',
      lz4: 'lz4\ncompress-level=1',
      gzip: 'gz\ncompress-level=6',
      none: 'none',
    };
    const conf = path.join(home, 'pgbackrest.conf');
    fs.writeFileSync(
      conf,
      `[global]\nrepo1-path=${home}/repo\nspool-path=${home}/spool\nlock-path=${home}/lock\nlog-path=${home}/log\n` +
        `log-level-console=warn\nlog-level-file=off\narchive-async=y\nprocess-max=2\ncompress-type=${type[codec]}\n` +
        `[main]\npg1-path=${pgData}\n`,
    );
    const base = ['pgbackrest', `--config=${conf}`, '--stanza=main'];
    await mustRun({ argv: [...base, '--no-online', 'stanza-create'] });
    // As PostgreSQL does it: one call after the other; the first one starts the two processes that do the work.
    const push = corpus.names.map((name) => `${base.join(' ')} archive-push ${pgData}/pg_wal/${name} || exit 1`);
    const script = path.join(home, 'push.sh');
    fs.writeFileSync(script, `${push.join('\n')}\n`);
    return {
      archive: { argv: ['sh', script], cwd: pgData },
      stored: path.join(home, 'repo'),
      get: (name) => ({
        argv: [...base, '--no-archive-async', 'archive-get', name, path.join(home, 'fetched')],
        cwd: pgData,
      }),
    };
  },
};

/** Compressors over the same bytes, no fsync, no catalogue: what the CPU allows. @type {Record<Codec, string>} */
const REFERENCE = {
  zstd: 'zstd -3 -T2 -q -f --output-dir-flat out in/*',
  lz4: 'ls in | xargs -P 2 -I {} lz4 -1 -q -f in/{} out/{}',
  gzip: `ls in | xargs -P 2 -I {} sh -c 'gzip -6 -c in/{} >out/{}'`,
  none: 'cp --reflink=never in/* out/',
};

/** @param {Codec} codec @returns {Contender} */
function reference(codec) {
  const program = REFERENCE[codec].includes('xargs')
    ? `${codec} x 2 processes`
    : codec === 'zstd'
      ? 'zstd -3 -T2'
      : 'cp';
  return {
    name: program,
    kind: 'reference',
    async setUp(home, _codec, corpus) {
      await copyCorpus(corpus, path.join(home, 'in'));
      fs.mkdirSync(path.join(home, 'out'));
      return { archive: { argv: ['sh', '-c', REFERENCE[codec]], cwd: home }, stored: path.join(home, 'out') };
    },
  };
}

/** Everybody on this machine who may know the codec. @param {Codec} codec @returns {Contender[]} */
export function contendersFor(codec) {
  const tool = codec === 'none' ? 'cp' : codec;
  return [
    walwarden,
    ...(which(tool) === undefined ? [] : [reference(codec)]),
    ...barmans(),
    ...(which('pgbackrest') === undefined ? [] : [pgBackRest]),
  ];
}

/**
 * Why this can't be a result: not everything was stored, or not with the codec; undefined when all is well.
 * @param {Contender} contender @param {Site} site @param {Codec} codec @param {Corpus} corpus
 */
export function whyInvalid(contender, site, codec, corpus) {
  if (contender.kind === 'reference') return undefined;
  const names = storedWals(site.stored);
  if (names.length !== corpus.names.length) return `stored ${names.length} of ${corpus.names.length}`;
  const file = fs.openSync(path.join(site.stored, names[0] ?? ''), 'r');
  const head = Buffer.alloc(4);
  fs.readSync(file, head);
  fs.closeSync(file);
  return head.toString('hex').startsWith(MAGIC[codec]) ? undefined : `no ${codec}`;
}
