import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';

test('what is printed is read back, over all 64 bits', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (lsn) => {
      expect(parseLsn(formatLsn(lsn))).toBe(lsn);
    }),
  );
});

test.each([
  ['0/0', 0n],
  ['0/15D68D0', 0x15d68d0n],
  ['1/0', 2n ** 32n],
  ['FFFFFFFF/FFFFFFFF', 2n ** 64n - 1n],
])('%s is %d, as pg_lsn prints it', (text, lsn) => {
  expect(parseLsn(text)).toBe(lsn);
  expect(formatLsn(lsn)).toBe(text);
});

test('lower case and leading zeros are read', () => {
  expect(parseLsn('0a/00ff')).toBe(0xa_0000_00ffn);
});

test.each(['', '0', '/', '0/', '/0', '0/0/0', '100000000/0', '0/100000000', '0x1/0', ' 0/0', '0/0\n', 'G/0'])(
  '%j is no LSN',
  (text) => {
    expect(() => parseLsn(text)).toThrowError(/not an LSN: expected HIGH\/LOW in hexadecimal/);
  },
);
