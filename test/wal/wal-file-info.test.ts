import { execFileSync } from 'node:child_process';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseXlogdbLine, readXlogdbLine, secondsOfNs, toXlogdbLine } from '../../src/wal/wal-file-info.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { nanoseconds, walFileInfos } from './arbitraries.ts';

const NAME = '000000010000000000000001';

test('what is printed is read back', () => {
  fc.assert(
    fc.property(walFileInfos, (info) => {
      const line = toXlogdbLine(info);
      expect(line.endsWith('\n')).toBe(true);
      expect(parseXlogdbLine(line.slice(0, -1))).toEqual(info);
    }),
  );
});

test('times are printed with the very digits of Python, which wrote the catalogue so far', () => {
  const times = fc.sample(nanoseconds, 3000);
  // What os.stat computes from a timespec, and floats of all sizes besides.
  const floats = fc.sample(fc.double({ noDefaultInfinity: true, noNaN: true }), 3000).filter((x) => !Object.is(x, -0));
  const program = `
import sys, json
times, floats = json.load(sys.stdin)
for ns in times:
    seconds, rest = divmod(int(ns), 10**9)
    print(repr(seconds + 1e-9 * rest))
for text in floats:
    print(repr(float(text)))
`;
  const input = JSON.stringify([times.map(String), floats.map(String)]);
  const expected = execFileSync('python3', ['-c', program], { input, encoding: 'utf8' }).trimEnd().split('\n');
  const printed = [...times.map(secondsOfNs), ...floats].map((mtime) => {
    const line = toXlogdbLine({ name: walName(NAME), size: 1, mtime, compression: null, encryption: null });
    return line.split('\t')[2];
  });
  expect(printed).toEqual(expected);
});

test.each([
  [`${NAME}\t16777216\t1700000000.5`, null, null],
  [`${NAME}\t16777216\t1700000000.5\tNone`, null, null],
  [`${NAME}\t16777216\t1700000000.5\tgzip`, 'gzip', null],
  [`${NAME}\t16777216\t1700000000.5\tgzip\tgpg`, 'gzip', 'gpg'],
  [`${NAME} 16777216  1700000000.5 gzip\tNone\r`, 'gzip', null],
])('%j, as some Barman wrote it, is read', (line, compression, encryption) => {
  expect(parseXlogdbLine(line)).toEqual({
    name: NAME,
    size: 16_777_216,
    mtime: 1_700_000_000.5,
    compression,
    encryption,
  });
});

test.each([
  '',
  ' ',
  'garbage',
  NAME,
  `${NAME}\t1`,
  `${NAME}\t-1\t1.5\tNone\tNone`,
  `${NAME}\t1.5\t1.5\tNone\tNone`,
  `${NAME}\t1\tnan\tNone\tNone`,
  `${NAME}\t1\t\tNone\tNone`,
  `${NAME}\t1\t1.5\tNone\tNone\tNone`,
  `${NAME}.tmp\t1\t1.5\tNone\tNone`,
  `${NAME}\t1\t1.5\tNone\tNone\0\0`,
  // Two lines that a crash ran into one, so that the second name became part of the size.
  `${NAME}\t1677721000000010000000000000011\t16777216\t1700000000.5\tNone`,
  `${NAME}\t12\t16777216\t1700000000.5\tNone`,
])('%j is no catalogue line', (line) => {
  expect(readXlogdbLine(line)).toBeUndefined();
  expect(() => parseXlogdbLine(line)).toThrowError(/not a catalogue line: expected name, size, mtime/);
});

test.each([' ', '\t', 'a', '0', ' a', '0 ', 'a\t0\t'])(
  'rubbish of many %j is judged without backtracking for ever',
  (unit) => {
    expect(readXlogdbLine(unit.repeat(65_536 / unit.length))).toBeUndefined();
  },
);
