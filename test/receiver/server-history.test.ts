import { describe, expect, test } from 'vitest';
import { judgePosition, timelineAt, type ServerHistory } from '../../src/receiver/server-history.ts';
import { parseLsn } from '../../src/wal/lsn.ts';

const at = (timeline: number, lsn: string): { timeline: number; lsn: bigint } => ({ timeline, lsn: parseLsn(lsn) });

/** On timeline 4, which came from 2, which came from 1; 3 was another's. */
const server: ServerHistory = {
  ...at(4, '0/9000100'),
  history: [
    { timeline: 1, switchPoint: parseLsn('0/3000200'), reason: '' },
    { timeline: 2, switchPoint: parseLsn('0/7000000'), reason: '' },
  ],
};

describe('judgePosition', () => {
  test('whatever the server has written on its own timeline can be had', () => {
    expect(judgePosition(at(4, '0/8000000'), server)).toEqual({ reachable: true });
    expect(judgePosition(at(4, '0/9000100'), server)).toEqual({ reachable: true });
  });

  test('what it has not written is ahead', () => {
    expect(judgePosition(at(4, '0/9100000'), server)).toEqual({ reachable: false, why: 'ahead' });
  });

  test('an older timeline can be had up to the point where it was left, that included', () => {
    expect(judgePosition(at(1, '0/3000000'), server)).toEqual({ reachable: true });
    expect(judgePosition(at(2, '0/7000000'), server)).toEqual({ reachable: true });
  });

  test('what lies behind that point has diverged', () => {
    const switchPoint = parseLsn('0/3000200');
    expect(judgePosition(at(1, '0/3100000'), server)).toEqual({ reachable: false, why: 'diverged', switchPoint });
  });

  test('a timeline that the server does not descend from, and one that it has not reached, are unknown', () => {
    expect(judgePosition(at(3, '0/1000000'), server)).toEqual({ reachable: false, why: 'unknown' });
    expect(judgePosition(at(5, '0/1000000'), server)).toEqual({ reachable: false, why: 'unknown' });
  });
});

test.each([
  ['0/1000000', 1],
  ['0/30001FF', 1],
  ['0/3000200', 2],
  ['0/6FFFFFF', 2],
  ['0/7000000', 4],
  ['0/9000100', 4],
])('the WAL at %s was written on timeline %i', (lsn, timeline) => {
  expect(timelineAt(parseLsn(lsn), server)).toBe(timeline);
});
