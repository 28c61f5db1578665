import * as fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { isSynchronousName, parseSynchronousStandbyNames } from '../../src/postgres/synchronous-standby-names.ts';

describe('parseSynchronousStandbyNames', () => {
  it.each([
    ['a', { method: 'first', count: 1, names: ['a'] }],
    [' A , "b ""c""" ,*', { method: 'first', count: 1, names: ['a', 'b "c"', '*'] }],
    ['2 (a, b)', { method: 'first', count: 2, names: ['a', 'b'] }],
    ['2(a,b)', { method: 'first', count: 2, names: ['a', 'b'] }],
    ['FIRST 2 (a, b)', { method: 'first', count: 2, names: ['a', 'b'] }],
    ['first 1(a)', { method: 'first', count: 1, names: ['a'] }],
    ['aNy 2 ("first", any_b, 3)', { method: 'any', count: 2, names: ['first', 'any_b', '3'] }],
    ['1, 2', { method: 'first', count: 1, names: ['1', '2'] }],
    ['1', { method: 'first', count: 1, names: ['1'] }],
    ['"*"', { method: 'first', count: 1, names: ['*'] }],
    ['s$1, _x, é', { method: 'first', count: 1, names: ['s$1', '_x', 'é'] }],
  ])('understands %j', (text, expected) => {
    expect(parseSynchronousStandbyNames(text)).toEqual(expected);
  });

  test('an empty setting names nobody', () => {
    expect(parseSynchronousStandbyNames('')).toBeNull();
  });

  it.each([
    ['a b', 'expected ",", found "b" at position 3'],
    ['a,', 'expected a name, found its end'],
    [',', 'expected a name, found "," at position 1'],
    ['2 (a', 'expected ")", found its end'],
    ['2 ()', 'expected a name, found ")" at position 4'],
    ['any (a)', 'expected a number, found "(" at position 5'],
    ['first', 'expected a number, found its end'],
    ['ANY 1 a', 'expected "(", found "a" at position 7'],
    ['a, first', 'expected a name, found "first" at position 4'],
    ['a "b', 'found a quoted name that does not end at position 3'],
    ['a-b', 'found "-" at position 2'],
    ['1a', 'expected ",", found "a" at position 2'],
    ['2 (a) b', 'expected ")", found its end'],
    [' ', 'expected a name, found its end'],
  ])('says what is wrong with %j', (text, message) => {
    expect(() => parseSynchronousStandbyNames(text)).toThrow(message);
  });
});

describe('isSynchronousName', () => {
  it.each([
    ['walwarden', 'walwarden', true],
    ['WalWarden', 'wALWARDEN', true],
    ['"WalWarden"', 'walwarden', true],
    ['other, *', 'anything', true],
    ['ANY 1 ("*")', 'anything', true],
    ['FIRST 2 (a, b)', 'b', true],
    ['a, b', 'c', false],
    ['', 'a', false],
    [null, 'a', false],
  ])('in %j is %j: %s', (setting, name, expected) => {
    expect(isSynchronousName(setting, name)).toBe(expected);
  });

  test('finds every name that was quoted as it should be', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme-ascii' }), { minLength: 1, maxLength: 4 }),
        fc.nat(),
        (names, at) => {
          const setting = `ANY 1 (${names.map((name) => `"${name.replaceAll('"', '""')}"`).join(', ')})`;
          const name = names[at % names.length] ?? '';
          expect(isSynchronousName(setting, name.toUpperCase())).toBe(true);
        },
      ),
    );
  });
});
