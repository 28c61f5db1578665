import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import type { Backup } from '../../src/retention/needed-wal.ts';
import { parseBackupInfo, readBackups } from '../../src/retention/read-backups.ts';
import { withTempDir } from '../support/temp-dir.ts';

const BEGIN = '000000010000000000000004';
const END = '000000010000000000000006';
/** As Barman 3.20 writes it. */
const info = (fields: Readonly<Record<string, string>> = {}): string =>
  Object.entries({
    backup_label: String.raw`'START WAL LOCATION: 0/400028 (file 000000010000000000000004)\nLABEL: a=b\n'`,
    begin_offset: '40',
    begin_time: '2026-11-21 08:55:13+00:00',
    begin_wal: BEGIN,
    begin_xlog: '0/400028',
    end_wal: END,
    error: 'None',
    included_files: 'None',
    mode: 'postgres',
    parent_backup_id: 'None',
    status: 'DONE',
    systemid: '7123',
    tablespaces: "[('ts1', 16384, '/srv/ts=1')]",
    timeline: '1',
    xlog_segment_size: '1048576',
    ...fields,
  })
    .map(([key, value]) => `${key}=${value}\n`)
    .join('');

const ID = '20261121T085513';
const facts = { status: 'DONE', beginWal: BEGIN, endWal: END };

test.each<[string, string, object | RegExp]>([
  ['what Barman writes', info(), facts],
  [
    'spaces, comments and empty lines',
    `# a comment\n\n status = DONE \nbegin_wal = ${BEGIN}\n`,
    { ...facts, endWal: null },
  ],
  ['carriage returns', info().replaceAll('\n', '\r\n'), facts],
  [
    'a backup without its beginning',
    info({ begin_wal: 'None', end_wal: '' }),
    { status: 'DONE', beginWal: null, endWal: null },
  ],
  ['a beginning that is no segment', info({ begin_wal: `${BEGIN}.partial` }), { beginWal: null }],
  ['a beginning that is nothing of the kind', info({ begin_wal: '0/400028' }), { beginWal: null }],
  ['an empty file', '', /^it has no status$/],
  ['a status that is none', info({ status: 'None' }), /^it has no status$/],
  ['a line that says nothing', `${info()}garbage\n`, /^line 16 is no "key=value": "garbage"$/],
])('reads %s', (_what, text, expected) => {
  const found = parseBackupInfo(text);
  if (expected instanceof RegExp) expect(found).toMatch(expected);
  else expect(found).toMatchObject(expected);
});

/** Files below a server's directory; a text that begins with `->` is a symbolic link. */
async function backupsIn(files: Readonly<Record<string, string | null>>): Promise<Backup[]> {
  return withTempDir(async (directory) => {
    for (const [path, text] of Object.entries(files)) {
      await mkdir(dirname(join(directory, path)), { recursive: true });
      if (text === null) await mkdir(join(directory, path), { recursive: true });
      else if (text.startsWith('->')) await symlink(text.slice(2), join(directory, path));
      else await writeFile(join(directory, path), text);
    }
    const found = await readBackups({ base: join(directory, 'base'), meta: join(directory, 'meta') });
    return found.map((backup) =>
      'problem' in backup
        ? { id: backup.id.replace(directory, ''), problem: backup.problem.replaceAll(directory, '') }
        : backup,
    );
  });
}

test.each<[string, Readonly<Record<string, string | null>>, readonly object[]]>([
  ['no directory at all', {}, []],
  ['in base, as before Barman 3.13.2', { [`base/${ID}/backup.info`]: info() }, [{ id: ID, ...facts, keep: null }]],
  [
    'in meta, as since then',
    { [`base/${ID}/data`]: null, [`meta/${ID}-backup.info`]: info() },
    [{ id: ID, ...facts, keep: null }],
  ],
  [
    'in both, where the newer place counts',
    { [`base/${ID}/backup.info`]: info({ status: 'FAILED' }), [`meta/${ID}-backup.info`]: info() },
    [{ id: ID, status: 'DONE' }],
  ],
  [
    'kept, by an annotation of either place',
    {
      [`base/${ID}/backup.info`]: info(),
      [`base/${ID}/annotations/keep`]: 'standalone',
      'meta/20261122T000000-backup.info': info(),
      'meta/20261122T000000-keep': 'full\n',
      'meta/20261123T000000-backup.info': info(),
      'meta/20261123T000000-keep': 'standalone\n',
    },
    [{ id: ID, keep: 'standalone' }, { keep: 'full' }, { keep: 'standalone' }],
  ],
  [
    'kept for something else, or by what can not be read, as in full',
    {
      [`meta/${ID}-backup.info`]: info(),
      [`meta/${ID}-keep`]: '',
      'meta/20261122T000000-backup.info': info(),
      'meta/20261122T000000-keep': null,
    },
    [{ keep: 'full' }, { keep: 'full' }],
  ],
  [
    'what is no backup: temporaries, plain files, empty directories, hidden ones',
    {
      'base/notes.txt': 'x',
      'base/20261121T000000': null,
      'base/20261122T000000/annotations/keep': 'full',
      'base/.20261123T000000/backup.info': 'garbage',
      [`meta/${ID}-backup.info.tmp`]: 'garbage',
      'meta/main-xlog.db': '',
    },
    [],
  ],
  [
    'through symbolic links',
    { [`base/${ID}`]: '->../elsewhere', 'elsewhere/backup.info': info() },
    [{ id: ID, ...facts }],
  ],
])('finds backups: %s', async (_what, files, expected) => {
  const found = await backupsIn(files);
  expect(found).toHaveLength(expected.length);
  expect(found).toMatchObject(expected);
});

test.each<[string, Readonly<Record<string, string | null>>, string, RegExp]>([
  ['garbage', { [`base/${ID}/backup.info`]: 'garbage' }, ID, /^\/base\/.*\/backup\.info can't be read: line 1/],
  ['a directory of that name', { [`meta/${ID}-backup.info`]: null }, ID, /can't be read: it is no regular file$/],
  [
    'a link that leads nowhere',
    { [`base/${ID}/backup.info`]: '->gone' },
    ID,
    /can't be read: it is a symbolic link that leads nowhere$/,
  ],
  ['a link in a circle', { [`base/${ID}/backup.info`]: '->backup.info' }, ID, /can't be read: ELOOP/],
  [
    'data without backup.info',
    { [`base/${ID}/data/PG_VERSION`]: '15' },
    ID,
    /^\/base\/.* may hold a backup, and there is no/,
  ],
  ['a link to a disk that is not mounted', { [`base/${ID}`]: '->/nowhere/at/all' }, ID, /may hold a backup/],
  ['base itself, which is no directory', { base: 'x' }, '/base', /ENOTDIR/],
])('says what can not be read: %s', async (_what, files, id, problem) => {
  expect(await backupsIn(files)).toEqual([{ id, problem: expect.stringMatching(problem) }]);
});

test('with backups in a bucket, those count of which Barman keeps a backup.info here', () =>
  withTempDir(async (directory) => {
    await writeFile(join(directory, `${ID}-backup.info`), info());
    expect(await readBackups({ base: null, meta: directory })).toMatchObject([{ id: ID, ...facts }]);
  }));
