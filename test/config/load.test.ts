import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { findServer, type WalwardenConfig } from '../../src/config/config.ts';
import { loadConfig } from '../../src/config/load.ts';
import { withConfig } from './with-config.ts';

const BARMAN = '[barman]\nbarman_home = HOME\n';

/** Loads a main file of `[barman]` with barman_home and the given rest, from line 3 on. */
async function load(rest: string, files: Readonly<Record<string, string>> = {}): Promise<WalwardenConfig> {
  let config: WalwardenConfig | undefined;
  await withConfig({ 'barman.conf': BARMAN + rest, ...files }, async (_home, main) => {
    config = await loadConfig(main);
  });
  if (config === undefined) throw new Error('not loaded');
  return config;
}

const problemsOf = (config: WalwardenConfig, name = 'main') => {
  const server = findServer(config, name);
  expect(server.disabled).toBe(server.problems.length > 0);
  return server.problems.map(({ message }) => message.replace(/^.*\//, ''));
};

const warningsOf = (config: WalwardenConfig) =>
  config.warnings.map(({ file, line, message }) => `${file.replace(/^.*\//, '')}:${line}: ${message}`);

describe('values', () => {
  it('come from the server, then from [barman], then from the table, and say so', async () => {
    const config = await load('compression = gzip\narchiver = on\n[main]\ncompression = zstd\n[other]\n');
    const main = findServer(config, 'main');
    expect(main.options).toMatchObject({
      compression: 'zstd',
      archiver: true,
      archiver_batch_size: 0,
      slot_name: null,
    });
    expect(main.settings.compression).toMatchObject({ text: 'zstd', source: { line: 6 } });
    expect(main.settings.archiver.source).toMatchObject({ file: config.file, line: 4 });
    expect(main.settings.archiver_batch_size.source).toBe('default');
    expect(findServer(config, 'other').options.compression).toBe('gzip');
    expect(config.warnings).toEqual([]);
  });

  it('are interpolated from the section, [barman], the defaults, the name and the home', async () => {
    const config = await load(
      'conninfo_host = pg\narchiver = on\n[main]\nconninfo = host=%(conninfo_host)s application_name=%(name)s\nwals_directory = %(backup_directory)s/w\nbackup_directory = %(barman_home)s/x\n',
    );
    const { options } = findServer(config, 'main');
    expect(options.conninfo).toBe('host=pg application_name=main');
    expect(options.wals_directory).toBe(`${config.global.options.barman_home}/x/w`);
    expect(options.errors_directory).toBe(`${config.global.options.barman_home}/x/errors`);
    expect(options.xlogdb_directory).toBe(options.wals_directory);
  });

  it('lose their quotes, and None or nothing unsets them, [barman] included', async () => {
    const config = await load(
      'compression = gzip\nslot_name = all_of_them\narchiver = on\n[main]\ndescription = "a b"\ncompression = None\nslot_name =\n',
    );
    expect(findServer(config, 'main').options).toMatchObject({
      description: 'a b',
      compression: null,
      slot_name: null,
    });
  });

  it('of [DEFAULT] count for every section', async () => {
    const config = await load('[DEFAULT]\narchiver = on\nlog_level = DEBUG\n[main]\n');
    expect(findServer(config, 'main').options.archiver).toBe(true);
    expect(config.global.options.log_level).toBe('debug');
  });

  it('of conninfo serve for streaming and for the slot where nothing else is set, as in Barman', async () => {
    const one = findServer(await load('archiver=on\n[main]\nconninfo = a\n'), 'main');
    expect(one.options).toMatchObject({ streaming_conninfo: 'a', wal_streaming_conninfo: 'a', wal_conninfo: 'a' });
    expect(one.settings.wal_conninfo.source).toEqual({ sameAs: 'conninfo' });
    const two = findServer(
      await load('archiver=on\n[main]\nconninfo = a\nstreaming_conninfo = b\nwal_streaming_conninfo = c\n'),
      'main',
    );
    expect(two.options).toMatchObject({ streaming_conninfo: 'b', wal_streaming_conninfo: 'c', wal_conninfo: 'c' });
    const three = findServer(await load('archiver=on\n[main]\nconninfo = a\nstreaming_conninfo = b\n'), 'main');
    expect(three.options).toMatchObject({ wal_streaming_conninfo: 'b', wal_conninfo: 'a' });
  });

  it('keep the catalogue local when the archive is a bucket', async () => {
    const { options } = findServer(await load('archiver=on\n[main]\nwals_directory = s3://bucket/x/\n'), 'main');
    expect(options.wals_directory).toBe('s3://bucket/x');
    expect(options.xlogdb_directory).toBe(`${options.backup_directory}/wals`);
  });
});

describe('an unknown option', () => {
  it('is a warning with place and the most similar name, and harms nothing', async () => {
    const config = await load('archiver = on\nlog_levle = INFO\n[main]\ncompresion = gzip\nxyzzy_frobnicate = 1\n');
    expect(warningsOf(config)).toEqual([
      'barman.conf:4: unknown option "log_levle" in [barman]; did you mean log_level?',
      'barman.conf:6: unknown option "compresion" in [main]; did you mean compression?',
      'barman.conf:7: unknown option "xyzzy_frobnicate" in [main]',
    ]);
    expect(problemsOf(config)).toEqual([]);
  });

  it('is told from one that has no effect where it stands, and from those for backups', async () => {
    const config = await load(
      'archiver = on\nreuse_backup = link\nwals_directory = /x\n[main]\nlog_file = /x\nretention_policy = REDUNDANCY 2\n',
    );
    expect(warningsOf(config)).toEqual([
      'barman.conf:5: wals_directory has no effect in [barman]',
      'barman.conf:7: log_file has no effect in [main]',
    ]);
    expect(findServer(config, 'main').ignored.get('retention_policy')?.text).toBe('REDUNDANCY 2');
  });
});

describe('a bad value', () => {
  it('disables the servers that it concerns, and names place, option, value and what is allowed', async () => {
    const config = await load(
      'archiver = on\ncompression = gzap\n[main]\n[other]\ncompression = lz4\narchiver_batch_size = -1\n[fine]\ncompression = none\n',
    );
    expect(problemsOf(config)).toEqual([
      'barman.conf:4: compression = "gzap": expected gzip, pygzip, pigz, bzip2, pybzip2, xz, zstd, lz4, snappy, custom',
    ]);
    expect(problemsOf(config, 'other')).toEqual([
      'barman.conf:8: archiver_batch_size = "-1": expected a whole number from 0',
    ]);
    expect(problemsOf(config, 'fine')).toEqual([]);
  });

  it('with a comment behind it says that this is no comment', async () => {
    expect(problemsOf(await load('[main]\narchiver = on ; yes\n'))[0]).toContain('(a comment needs a line of its own)');
  });

  it('of an option that stands in [barman] alone is an error', async () => {
    await expect(load('log_level = LOUD\n[main]\n')).rejects.toThrow(
      'barman.conf:3: log_level = "LOUD": expected TRACE',
    );
  });

  it('is reported once, however many defaults depend on it', async () => {
    expect(problemsOf(await load('archiver=on\n[main]\nbackup_directory = relative\n'))).toEqual([
      'barman.conf:5: backup_directory = "relative": expected an absolute path',
    ]);
    expect(problemsOf(await load('archiver=on\n[main]\nbackup_directory = %(nope)s/x\n'))).toEqual([
      'barman.conf:5: backup_directory: %(nope)s is not set; expected the name of an option that is',
    ]);
    expect(problemsOf(await load('archiver=on\n[main]\nwals_directory = %(wals_directory)s\n'))[0]).toContain(
      'refers to itself',
    );
  });
});

describe('a contradiction', () => {
  it.each([
    [
      'compression = custom\n',
      [
        'compression = custom needs custom_compression_filter',
        'compression = custom needs custom_decompression_filter',
      ],
    ],
    [
      'custom_compression_magic = 0x10d1\n',
      [
        'custom_compression_magic = 0x10d1 is how WAL itself begins, so that nothing tells a plain file from a compressed one: ' +
          'set it to what custom_compression_filter writes first, or remove it',
      ],
    ],
    [
      'verify_wal_header = off\ncompression = custom\ncustom_compression_filter = a\ncustom_decompression_filter = b\n',
      [
        'compression = custom with verify_wal_header = off needs custom_compression_magic: where WAL headers are not read, nothing else tells ' +
          'a compressed file from a plain one; set it to what custom_compression_filter writes first, or choose another compression',
      ],
    ],
    ['compression = snappy\ncompression_level = 3\n', ['compression = snappy has no levels: remove compression_level']],
    ['encryption = gpg\n', ['encryption = gpg needs encryption_key_id']],
    [
      'compression = pigz\nwals_directory = s3://bucket\n',
      ["compression = pigz can't be used with wals_directory = s3://bucket: it can't compress in memory"],
    ],
    ['aws_sse_kms_key_id = k\naws_encryption = AES256\n', ['aws_sse_kms_key_id needs aws_encryption = aws:kms']],
    ['streaming_archiver = on\nslot_name = s\n', ['streaming_archiver = on needs streaming_conninfo or conninfo']],
    [
      'streaming_archiver = on\narchiver = off\nconninfo = x\n',
      ['streaming_archiver = on without archiver = on needs slot_name'],
    ],
  ])('%j is a problem of the server', async (lines, messages) => {
    const problems = problemsOf(await load(`archiver = on\n[main]\n${lines}`));
    expect(
      problems.map((message) => message.replace(/^barman.conf:\d+: /, '').replace(/^.*bucket: /, (text) => text)),
    ).toEqual(messages.map((message) => message.replace(/^.*\//, '')));
  });

  it('is none when a level in [barman] meets a server with snappy', async () => {
    expect(problemsOf(await load('archiver=on\ncompression_level = 3\n[main]\ncompression = snappy\n'))).toEqual([]);
  });

  it('is a problem of both servers that share a directory, through a symbolic link too', async () => {
    await withConfig(
      {
        'barman.conf': `${BARMAN}archiver = on\n[a]\n[b]\nbackup_directory = HOME/link\n[c]\nerrors_directory = HOME/c/incoming\n[d]\n`,
      },
      async (home, main) => {
        await mkdir(join(home, 'a'));
        await symlink('a', join(home, 'link'));
        const config = await loadConfig(main);
        expect(findServer(config, 'a').problems[0]?.message).toContain(
          'is the same directory as backup_directory of server "b"',
        );
        expect(findServer(config, 'b').problems).toHaveLength(5);
        expect(findServer(config, 'b').problems[0]?.message).toContain(
          `barman.conf:6: backup_directory = ${home}/link is the same directory as backup_directory of server "a"`,
        );
        expect(findServer(config, 'c').problems.map(({ message }) => message)).toEqual([
          expect.stringContaining('is the same directory as errors_directory'),
        ]);
        expect(findServer(config, 'd').problems).toEqual([]);
      },
    );
  });

  it('between the TLS files is an error', async () => {
    await expect(load('http_tls_cert_file = /x\n[main]\n')).rejects.toThrow('must be set both');
  });
});

describe('server names', () => {
  it.each(['all', '.', '..', 'a/b', '/etc', 'a\\b', 'tab\there', 'x'.repeat(201)])('%j is refused', async (name) => {
    const config = await load(`archiver = on\n[${name}]\n[fine]\n`);
    expect(problemsOf(config, name)).toHaveLength(1);
    expect(problemsOf(config, 'fine')).toEqual([]);
  });

  it.each(['main', 'Main 1', 'pg-15.example.com', 'größe'])('%j is accepted', async (name) => {
    expect(problemsOf(await load(`archiver = on\n[${name}]\n`), name)).toEqual([]);
  });
});

describe('servers', () => {
  it('are active unless they say otherwise', async () => {
    const config = await load('archiver=on\n[main]\n[off]\nactive = false\n');
    expect([findServer(config, 'main').active, findServer(config, 'off').active]).toEqual([true, false]);
  });

  it('are passive with a primary_ssh_command, and then need no archiver', async () => {
    const config = await load('[main]\nprimary_ssh_command = ssh barman@one\n');
    expect(findServer(config, 'main')).toMatchObject({ passive: true, disabled: false, options: { archiver: false } });
    expect(config.warnings).toEqual([]);
  });

  it('without any archiver are archived from incoming, with a warning, as in Barman', async () => {
    const config = await load('[main]\n');
    expect(findServer(config, 'main')).toMatchObject({ disabled: false, options: { archiver: true } });
    expect(warningsOf(config)[0]).toContain('barman.conf:3: [main]: archiver and streaming_archiver are both off');
  });

  it('are found by name, or the most similar name is suggested', async () => {
    const config = await load('archiver=on\n[production]\n[staging]\n');
    expect(() => findServer(config, 'prodution')).toThrow(
      expect.objectContaining({ code: 'unknown-server', hint: 'did you mean "production"?' }),
    );
    expect(() => findServer(config, 'x')).toThrow(
      expect.objectContaining({ hint: 'configured servers: production, staging' }),
    );
  });
});

describe('more files', () => {
  it('are read from configuration_files_directory in order, then .barman.auto.conf', async () => {
    const config = await load(
      'archiver=on\nconfiguration_files_directory = HOME/barman.d\n[main]\ndescription = 0\ncluster = 0\n',
      {
        'barman.d/b.conf': '[main]\ndescription = b\nslot_name = b\n',
        'barman.d/a.conf': '[main]\ndescription = a\nslot_name = a\ncluster = a\n',
        'barman.d/.hidden.conf': 'nonsense',
        'barman.d/c.conf.bak': 'nonsense',
        'barman.d/d.conf/x': '',
        '.barman.auto.conf': '[main]\nslot_name = auto\n[new]\n',
      },
    );
    expect(findServer(config, 'main').options).toMatchObject({ description: 'b', slot_name: 'auto', cluster: 'a' });
    expect([...config.servers.keys()]).toEqual(['main', 'new']);
    expect(config.files.map((file) => file.replace(/^.*\//, ''))).toEqual([
      'barman.conf',
      'a.conf',
      'b.conf',
      '.barman.auto.conf',
    ]);
    expect(warningsOf(config)).toEqual(['d.conf:1: expected a file, found a directory']);
  });

  it('must not change [barman]', async () => {
    const included = load('configuration_files_directory = HOME/d\n[main]\n', {
      'd/a.conf': '\n[barman]\ncompression = gzip\n',
    });
    await expect(included).rejects.toThrow(
      'a.conf:3: expected [barman] options in the main file only, found compression',
    );
  });

  it('are missed with a warning when the directory is not there', async () => {
    const config = await load('archiver=on\nconfiguration_files_directory = HOME/none\n[main]\n');
    expect(warningsOf(config)[0]).toContain('barman.conf:4: configuration_files_directory');
  });
});

describe('models', () => {
  const MODEL = '[switched]\nmodel = true\ncluster = main\nconninfo = host=b\ncompression = lz4\nwals_directory = /x\n';

  it('are no servers, and change nothing until they are active', async () => {
    const config = await load(`archiver=on\n[main]\nconninfo = host=a\n${MODEL}`);
    expect([...config.servers.keys()]).toEqual(['main']);
    expect(findServer(config, 'main')).toMatchObject({
      model: null,
      options: { conninfo: 'host=a', compression: null },
    });
    expect(warningsOf(config)).toEqual(['barman.conf:11: wals_directory has no effect in [switched]']);
  });

  it('override values of the server while .active-model.auto names them', async () => {
    const config = await load(`archiver=on\n[main]\nconninfo = host=a\n${MODEL}`, {
      'main/.active-model.auto': 'switched\n',
    });
    const main = findServer(config, 'main');
    expect(main).toMatchObject({ model: 'switched', options: { conninfo: 'host=b', compression: 'lz4' } });
    expect(main.options.wals_directory).toBe(`${config.global.options.barman_home}/main/wals`);
    expect(main.settings.compression.source).toMatchObject({ line: 10 });
    // Barman computes this one before the model is applied.
    expect(main.options.streaming_conninfo).toBe('host=a');
  });

  it('that do not exist or belong to another cluster are left out with a warning', async () => {
    const gone = await load('archiver=on\n[main]\n', { 'main/.active-model.auto': 'gone' });
    expect(warningsOf(gone)).toEqual([
      '.active-model.auto:1: the active model "gone" of server "main" doesn\'t exist: not applied',
    ]);
    const other = await load(`archiver=on\n[main]\ncluster = c\n${MODEL}`, { 'main/.active-model.auto': 'switched' });
    expect(warningsOf(other)[1]).toContain('is for cluster "main", server "main" is of "c": not applied');
    expect(findServer(other, 'main')).toMatchObject({ model: null, disabled: false });
  });

  it('must be clear about being models', async () => {
    expect(problemsOf(await load('archiver=on\n[main]\nmodel = perhaps\n'))[0]).toContain(
      '[main]: model: expected true',
    );
    expect(problemsOf(await load('archiver=on\n[main]\nmodel = off\n'))).toEqual([]);
  });

  it('with a bad value disable the server that uses them', async () => {
    const config = await load('archiver=on\n[main]\n[m]\nmodel=on\ncluster=main\ncompression=zip\n', {
      'main/.active-model.auto': 'm',
    });
    expect(problemsOf(config)[0]).toContain('barman.conf:8: compression = "zip"');
  });
});
