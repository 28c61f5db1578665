import { describe, expect, test } from 'vitest';
import { BandwidthLimit } from '../../../src/storage/s3/bandwidth-limit.ts';

/** A clock that stands still unless it is moved. */
function stoppedClock(): { now: () => number; advance: (ms: number) => void } {
  let time = 5_000;
  return { now: () => time, advance: (ms) => void (time += ms) };
}

describe('a bandwidth limit', () => {
  test('gives every piece its place, one after the other', () => {
    const clock = stoppedClock();
    const limit = new BandwidthLimit(1_000_000, clock.now);
    // A tenth of a second's worth may go at once.
    expect([limit.reserve(50_000), limit.reserve(50_000), limit.reserve(50_000), limit.reserve(50_000)]).toEqual([
      0, 0, 0, 50,
    ]);
    expect(limit.reserve(0)).toBe(100);
  });

  test('does not save up what was not used', () => {
    const clock = stoppedClock();
    const limit = new BandwidthLimit(1_000_000, clock.now);
    limit.reserve(1_000_000);
    clock.advance(3_600_000);
    expect(limit.reserve(100_000)).toBe(0);
    expect(limit.reserve(100_000)).toBe(0);
    expect(limit.reserve(1)).toBe(100);
  });

  test('keeps to its rate however many ask', () => {
    const clock = stoppedClock();
    const limit = new BandwidthLimit(250_000, clock.now);
    const waits = Array.from({ length: 1_000 }, () => limit.reserve(2_500));
    // 2.5 MB at 250 kB/s are 10 s, less the burst; the last piece begins 10 ms before the end.
    expect(waits.at(-1)).toBeCloseTo(10_000 - 100 - 10);
    expect(waits).toEqual(waits.toSorted((a, b) => a - b));
  });

  test('lets all bytes through, in order', async () => {
    const bytes = Buffer.from(Array.from({ length: 300_001 }, (_, index) => index % 251));
    const limit = new BandwidthLimit(100_000_000);
    const chunks = await Promise.all([limit.stream(bytes).toArray(), limit.stream(bytes).toArray()]);
    expect(chunks.map((all) => Buffer.concat(all).equals(bytes))).toEqual([true, true]);
    expect(await limit.stream(Buffer.alloc(0)).toArray()).toEqual([]);
  });

  test('does not hold anybody who gives up', async () => {
    const limit = new BandwidthLimit(1);
    const stream = limit.stream(Buffer.alloc(1_000_000));
    stream.resume();
    const closed = new Promise((resolve) => stream.once('close', resolve));
    stream.destroy();
    await closed;
  });
});
