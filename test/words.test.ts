import { expect, test } from 'vitest';
import { WalwardenError } from '../src/errors.ts';
import { count, explain, formatBytes, formatMoment, formatSpan, formatTime, oneLine } from '../src/words.ts';

test.each([
  [0, '0 s'],
  [50, '50 ms'],
  [1_000, '1 s'],
  [1_500, '1 s'],
  [45_000, '45 s'],
  [90_000, '1 min 30 s'],
  [3_600_000, '1 h'],
  [4_800_000, '1 h 20 min'],
  [3_599_999, '59 min'],
  [86_400_000, '1 day'],
  [100_000_000, '1 day 3 h'],
  [604_800_000, '7 days'],
  [-5, '0 s'],
])('a span of %i ms is %s', (ms, text) => {
  expect(formatSpan(ms)).toBe(text);
});

test('a moment is told in UTC, with its age unless it is to come', () => {
  const at = Date.UTC(2026, 0, 2, 3, 4, 5, 678);
  expect(formatTime(at)).toBe('2026-01-02 03:04:05 UTC');
  expect(formatMoment(at, at + 60_000)).toBe('2026-01-02 03:04:05 UTC (1 min ago)');
  expect(formatMoment(at, at - 60_000)).toBe('2026-01-02 03:04:05 UTC');
});

test('bytes have three digits', () => {
  expect([0, 1023, 1024, 16 * 1024 ** 2, 100 * 1024 ** 3].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.00 KiB',
    '16.0 MiB',
    '100 GiB',
  ]);
});

test('nouns are counted', () => {
  expect([count(1, 'file'), count(2, 'file'), count(0, 'file')]).toEqual(['1 file', '2 files', '0 files']);
});

test('errors and what others say become one line', () => {
  expect(explain(new WalwardenError('storage', 'no\ndisk', { hint: 'mount it' }))).toBe('no; disk; mount it');
  expect(oneLine('a\r\n  b\n')).toBe('a; b');
});
