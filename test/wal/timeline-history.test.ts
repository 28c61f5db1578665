import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatLsn } from '../../src/wal/lsn.ts';
import { parseTimelineHistory } from '../../src/wal/timeline-history.ts';
import { historyName } from '../../src/wal/wal-name.ts';

test("PostgreSQL's own file is read", () => {
  const text = '1\t0/5000098\tno recovery target specified\n\n2\t0/7000110\tbefore 2024-01-01 00:00:00+00\n';
  expect(parseTimelineHistory(text, '00000003.history')).toEqual([
    { timeline: 1, switchPoint: 0x5000098n, reason: 'no recovery target specified' },
    { timeline: 2, switchPoint: 0x7000110n, reason: 'before 2024-01-01 00:00:00+00' },
  ]);
});

test('comments, blank lines, spaces and a missing reason are accepted', () => {
  const text = '# made by hand\n\n  \t\n  1   0/10 \n';
  expect(parseTimelineHistory(text, '00000002.history')).toEqual([{ timeline: 1, switchPoint: 0x10n, reason: '' }]);
});

test('every increasing list of timelines is read back', () => {
  const lists = fc.uniqueArray(fc.integer({ min: 1, max: 0xffff_fffe }), { minLength: 1, maxLength: 20 });
  const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const reason = fc.string().map((text) => text.replaceAll(/[^ -~]/g, '').trim());
  fc.assert(
    fc.property(lists, lsn, reason, (timelines, switchPoint, why) => {
      const sorted = timelines.toSorted((a, b) => a - b);
      const text = sorted.map((timeline) => `${timeline}\t${formatLsn(switchPoint)}\t${why}\n`).join('');
      expect(parseTimelineHistory(text, historyName(0xffff_ffff))).toEqual(
        sorted.map((timeline) => ({ timeline, switchPoint, reason: why })),
      );
    }),
  );
});

test.each([
  ['garbage', 'hello\n', /00000003.history, line 1: expected a timeline.*, found 5 characters that are not these$/],
  ['a line without a switch point', '1\n', /line 1/],
  ['timelines that go back', '2\t0/10\tx\n1\t0/20\tx\n', /line 2: timelines must increase.*found 1 after 2/],
  ['its own timeline', '3\t0/10\tx\n', /stay below the file's own, found 3/],
  ['timeline 0', '0\t0/10\tx\n', /found 0/],
  ['binary data', '\0\0\0\0', /line 1/],
])('%s is refused, naming the line', (_what, text, message) => {
  expect(() => parseTimelineHistory(text, '00000003.history')).toThrowError(message);
});
