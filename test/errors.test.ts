import { expect, test } from 'vitest';
import { errnoOf, messageOf, WalwardenError } from '../src/errors.ts';

const nameless = (errno: number, call: string): Error =>
  Object.assign(new Error(`Unknown system error -${errno}: Unknown system error -${errno}, ${call}`), {
    code: `Unknown system error -${errno}`,
    errno: -errno,
  });

test.each([
  [122, 'EDQUOT', 'disk quota exceeded'],
  [116, 'ESTALE', 'stale file handle'],
  [117, 'EUCLEAN', 'structure needs cleaning'],
])('errno %i, for which Node has no name, is %s', (errno, name, text) => {
  const error = nameless(errno, "mkdir '/archive'");
  expect(errnoOf(error)).toBe(name);
  expect(messageOf(error)).toBe(`${name}: ${text}, mkdir '/archive'`);
});

test('a number that nobody knows stays as it is', () => {
  const error = nameless(4711, 'write');
  expect(errnoOf(error)).toBe('Unknown system error -4711');
  expect(messageOf(error)).toBe(error.message);
});

test('only system errors have an errno', () => {
  expect(errnoOf(new WalwardenError('storage', 'x', { cause: nameless(122, 'write') }))).toBeUndefined();
  expect(errnoOf(new Error('x'))).toBeUndefined();
  expect(errnoOf('EIO')).toBeUndefined();
  expect(messageOf('as it is')).toBe('as it is');
});
