import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { findOption, KNOWN_NAMES } from '../../src/config/options.ts';
import { mergeIni, parseIni, type Ini } from '../../src/config/ini.ts';
import { WalwardenError } from '../../src/errors.ts';

const plain = (ini: Ini) => ({
  defaults: Object.fromEntries([...ini.defaults].map(([key, { value }]) => [key, value])),
  sections: [...ini.sections.values()].map(({ name, entries }) => [
    name,
    Object.fromEntries([...entries].map(([key, { value }]) => [key, value])),
  ]),
});

const entriesOf = (text: string) => plain(parseIni(text, 'f')).sections[0]?.[1];

describe('parseIni', () => {
  it('reads sections, and options with = and :, whose names have no case', () => {
    const ini = parseIni('[barman]\nHome = /var\n[main]\nconninfo: host=pg\n', '/etc/barman.conf');
    expect(plain(ini).sections).toEqual([
      ['barman', { home: '/var' }],
      ['main', { conninfo: 'host=pg' }],
    ]);
  });

  it('remembers file and line of every value', () => {
    const ini = parseIni('\n; hello\n[main]\n\narchiver = on\n', '/etc/barman.conf');
    expect(ini.sections.get('main')).toMatchObject({ file: '/etc/barman.conf', line: 3 });
    expect(ini.sections.get('main')?.entries.get('archiver')).toEqual({
      value: 'on',
      file: '/etc/barman.conf',
      line: 5,
    });
  });

  it('lets the last of several values win, and continues a section that comes again', () => {
    expect(entriesOf('[main]\na = 1\n[other]\n[main]\nb = 2\na = 3\n')).toEqual({ a: '3', b: '2' });
  });

  it('joins indented lines to the value, skips comments in between and keeps empty lines inside', () => {
    expect(entriesOf('[main]\na = one\n  two\n# no\n\n  three\n\nb =\n\tlast\n')).toEqual({
      a: 'one\ntwo\n\nthree',
      b: '\nlast',
    });
  });

  it('takes an indented option after a section header as an option', () => {
    expect(entriesOf('[main]\n  a = 1\n  b = 2\n')).toEqual({ a: '1', b: '2' });
  });

  it('does not take a # or ; behind a value for a comment', () => {
    expect(entriesOf('[main]\na = 1 ; no\nb = 2 # neither\n')).toEqual({ a: '1 ; no', b: '2 # neither' });
  });

  it('accepts empty values, a byte order mark and all three line ends', () => {
    expect(entriesOf('\uFEFF[main]\r\na =\r\nb: 2\rc=3')).toEqual({ a: '', b: '2', c: '3' });
  });

  it('keeps [DEFAULT] apart', () => {
    expect(plain(parseIni('[DEFAULT]\na = 1\n[main]\n', 'f'))).toEqual({
      defaults: { a: '1' },
      sections: [['main', {}]],
    });
  });

  it.each([
    ['archiver = on\n', 'f:1: expected a [section] before the first option, found "archiver = on"'],
    ['[main]\n\nwhat is this\n', 'f:3: expected `option = value`'],
    ['[main]\n= 1\n', 'f:2: expected `option = value`'],
    ['[main]\nmy secret@pg\n', 'found a line of 12 characters, which may hold a password'],
    ['[]\n', 'f:1: expected a [section]'],
    ['[main]\na = b\0c\n', 'f:2: expected text, found a NUL byte'],
  ])('names file, line, expected and found for %j', (text, message) => {
    expect(() => parseIni(text, 'f')).toThrow(message);
  });

  it('reads back whatever is written in its own form', () => {
    const word = fc.stringMatching(/^[a-z_][a-z0-9_]{0,20}$/);
    const value = fc.string({ unit: 'grapheme' }).map((text) =>
      text
        .replace(/\s|\p{Cc}|\uFEFF/gu, ' ')
        .trim()
        .replace(/ +/g, ' '),
    );
    const sections = fc.dictionary(
      word.filter((name) => name !== '__proto__'),
      fc.dictionary(
        word.filter((name) => name !== '__proto__'),
        value,
      ),
    );
    fc.assert(
      fc.property(sections, (written) => {
        const text = Object.entries(written).map(([name, entries]) => {
          const lines = Object.entries(entries).map(([key, entry]) => `${key} = ${entry}\n`);
          return `[${name}]\n${lines.join('')}`;
        });
        expect(Object.fromEntries(plain(parseIni(text.join(''), 'f')).sections)).toEqual(written);
      }),
    );
  });

  it('never throws anything but a WalwardenError, whatever the text', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), iniLikeText()), (text) => {
        try {
          parseIni(text, 'f');
        } catch (error) {
          expect(error).toBeInstanceOf(WalwardenError);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it("reads what Python's configparser reads, and refuses what it refuses", async () => {
    const texts = fc.sample(iniLikeText(), { numRuns: 1500, seed: 42 });
    const directory = await mkdtemp(join(tmpdir(), 'walwarden-ini-'));
    try {
      const file = join(directory, 'texts.json');
      await writeFile(file, JSON.stringify(texts));
      const python = spawnSync('/usr/bin/python3', ['-c', READ_WITH_PYTHON, file], {
        encoding: 'utf8',
        maxBuffer: 1 << 28,
      });
      expect(python.stderr).toBe('');
      const theirs: unknown = JSON.parse(python.stdout);
      const ours = texts.map((text) => {
        try {
          return plain(parseIni(text, 'f'));
        } catch {
          return null;
        }
      });
      // Both outcomes must be there, else the comparison says little.
      expect(ours.filter((ini) => ini !== null).length).toBeGreaterThan(300);
      expect(ours.filter((ini) => ini === null).length).toBeGreaterThan(100);
      expect(ours).toEqual(theirs);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

// Each of these took minutes or all of the stack where the work grew with the square of the text, or worse.
describe('a configuration that is made to be slow', () => {
  const BLANKS = ' '.repeat(120_000);

  it('is read all the same: blanks in the middle of a value, of a key, of a header and of a comment', () => {
    const text = `[main]\na = x${BLANKS}x\nb${BLANKS}b = 1\n# ${BLANKS}x\n${BLANKS}\n[x${BLANKS}x]\n`;
    const [main] = plain(parseIni(text, 'f')).sections;
    expect(main).toEqual(['main', { a: `x${BLANKS}x`, [`b${BLANKS}b`]: '1' }]);
  });

  it('is refused where a value is longer than any option needs', () => {
    expect(() => parseIni(`[main]\na = ${'x'.repeat(131_073)}\n`, 'f')).toThrow(
      'f:2: expected a value of at most 131072 characters, found 131073',
    );
  });

  it.each(KNOWN_NAMES)('has a value of blanks for %s', (name) => {
    for (const value of [`x${BLANKS}x`, `1${BLANKS}x`, `a=b${BLANKS}x`, `/x${BLANKS}x`, `s3://xxx/${BLANKS}\nx`]) {
      findOption(name)?.type.parse(value);
    }
  });
});

describe('mergeIni', () => {
  it('lets the second file win, and keeps the order of sections', () => {
    const merged = mergeIni(parseIni('[a]\nx=1\ny=1\n[b]\n', 'f'), parseIni('[c]\n[a]\nx=2\n', 'g'));
    expect(plain(merged).sections).toEqual([
      ['a', { x: '2', y: '1' }],
      ['b', {}],
      ['c', {}],
    ]);
    expect(merged.sections.get('a')?.entries.get('x')).toMatchObject({ file: 'g', line: 3 });
  });
});

/** Text that often is, and often nearly is, a configuration file. */
function iniLikeText(): fc.Arbitrary<string> {
  const piece = fc.constantFrom(
    '[main]',
    '[main',
    '[b]c]',
    '[DEFAULT]',
    '[ x ]',
    'a',
    'Key',
    'b c',
    '=',
    ':',
    ' = ',
    '#',
    ';',
    ' ',
    '  ',
    '\t',
    '\u00a0',
    '\u2003',
    '\x1f',
    '\x85',
    '\v',
    '%',
    '"',
    'ä',
    'İ',
    '\u{1f600}',
    '',
    'value',
  );
  const good = fc.constantFrom(
    '[main]',
    '[other]',
    'a = 1',
    'B: 2',
    '  more',
    '\ttabbed',
    '',
    '# no',
    ' ; no',
    'c =',
    ' d=e',
  );
  const line = fc.oneof(
    { weight: 9, arbitrary: good },
    { weight: 1, arbitrary: fc.array(piece, { maxLength: 5 }).map((parts) => parts.join('')) },
  );
  const end = fc.constantFrom('\n', '\n', '\r\n', '\r');
  return fc
    .tuple(fc.boolean(), fc.array(fc.tuple(line, end), { maxLength: 12 }))
    .map(([header, lines]) => (header ? '[main]\n' : '') + lines.flat().join(''));
}

const READ_WITH_PYTHON = `
import configparser, io, json, sys
out = []
for text in json.load(open(sys.argv[1])):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding='utf-8'))
        out.append({'defaults': dict(parser._defaults), 'sections': [[n, dict(s)] for n, s in parser._sections.items()]})
    except configparser.Error:
        out.append(None)
json.dump(out, sys.stdout)
`;
