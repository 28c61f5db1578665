import { findEndOfWal } from '../../src/wal/end-of-wal.ts';
import { realSegments } from '../support/fixture.ts';

/** One real segment that a promotion cut short, as its receivers have it. */
export interface PartialWal {
  readonly name: string;
  /** Where its last record ends, and where that one begins. */
  readonly end: number;
  readonly lastRecord: number;
  /** Filled with zeros, as pg_receivewal does. */
  readonly padded: Buffer;
  /** With what an older segment held there, as PostgreSQL leaves it. */
  readonly recycled: Buffer;
  /** Without the last record. */
  readonly shorter: Buffer;
  /** The whole segment. */
  readonly whole: Buffer;
}

/** The beginning of `segment`, and from `at` on what `rest` holds there. */
export function spliced(segment: Buffer, at: number, rest: Buffer): Buffer {
  return Buffer.concat([segment.subarray(0, at), rest.subarray(at)]);
}

/** Real WAL that ends in the middle of a segment, in the middle of a page. */
export async function partialWal(): Promise<PartialWal> {
  const segments = [...(await realSegments())];
  for (const [name, whole] of segments) {
    const zeros = Buffer.alloc(whole.length);
    const endBefore = (at: number): number => findEndOfWal(spliced(whole, at, zeros))?.end ?? 0;
    const end = endBefore(300_000);
    const lastRecord = endBefore(end - 8);
    const older = segments.find(([other]) => other !== name)?.[1];
    // Fewer bytes than that are left of a page: then nobody can tell whether another record begins there.
    const isInside = end % 8192 > 100 && end % 8192 < 8000;
    if (older === undefined || end < 100_000 || !isInside) continue;
    return {
      name,
      end,
      lastRecord,
      whole,
      padded: spliced(whole, end, zeros),
      recycled: spliced(whole, end, older),
      shorter: spliced(whole, lastRecord, zeros),
    };
  }
  throw new Error('no segment of the fixture has enough records');
}
