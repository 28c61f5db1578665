import { expect, test } from 'vitest';
import { errnoOf, messageOf, WalwardenError } from '../src/errors.ts';

/** As Node makes them: what is asynchronous, and what is not. */
const nameless = (errno: number, call: string): readonly Error[] => [
  Object.assign(new Error(`Unknown system error -${errno}: Unknown system error -${errno}, ${call}`), {
    code: `Unknown system error -${errno}`,
    errno: -errno,
  }),
  Object.assign(new Error(`UNKNOWN: unknown error, ${call}`), { code: 'UNKNOWN', errno: -errno }),
];

test.each([
  [122, 'EDQUOT', 'disk quota exceeded'],
  [116, 'ESTALE', 'stale file handle'],
  [117, 'EUCLEAN', 'structure needs cleaning'],
])('errno %i, for which Node has no name, is %s', (errno, name, text) => {
  for (const error of nameless(errno, "mkdir '/archive'")) {
    expect(errnoOf(error)).toBe(name);
    expect(messageOf(error)).toBe(`${name}: ${text}, mkdir '/archive'`);
  }
});

test('a number that nobody knows stays as it is', () => {
  for (const error of nameless(4711, 'write')) {
    expect(errnoOf(error)).toMatch(/unknown/i);
    expect(messageOf(error)).toBe(error.message);
  }
});

test('only system errors have an errno', () => {
  expect(errnoOf(new WalwardenError('storage', 'x', { cause: nameless(122, 'write')[0] }))).toBeUndefined();
  expect(errnoOf(new Error('x'))).toBeUndefined();
  expect(errnoOf('EIO')).toBeUndefined();
  expect(messageOf('as it is')).toBe('as it is');
});
