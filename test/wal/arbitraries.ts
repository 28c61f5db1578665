import * as fc from 'fast-check';
import type { WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { segmentName, walName, type WalName } from '../../src/wal/wal-name.ts';

const upper = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');

/** Every size that PostgreSQL allows: 1 MiB to 1 GiB. */
export const segmentSizes = fc.integer({ min: 20, max: 30 }).map((bits) => 2 ** bits);

export const timelines = fc.integer({ min: 1, max: 0xffff_ffff });

/** A segment size and the running number of a segment that exists with it. */
export const segments = segmentSizes.chain((size) =>
  fc.record({ size: fc.constant(size), number: fc.bigInt({ min: 0n, max: 2n ** 64n / BigInt(size) - 1n }) }),
);

/** Names of every kind, some with lower-case digits, as Barman accepts them. */
export const walNames: fc.Arbitrary<WalName> = fc
  .record({
    timeline: timelines,
    segment: segments,
    offset: fc.integer({ min: 0, max: 0x3fff_ffff }),
    kind: fc.constantFrom('segment', 'partial', 'backup', 'history'),
    lower: fc.boolean(),
  })
  .map(({ timeline, segment, offset, kind, lower }) => {
    const base = segmentName(timeline, segment.number, segment.size);
    const spell = (text: string): string => (lower ? text.toLowerCase() : text);
    if (kind === 'segment') return walName(spell(base));
    if (kind === 'partial') return walName(`${spell(base)}.partial`);
    if (kind === 'backup') return walName(`${spell(base)}.${spell(upper(offset))}.backup`);
    return walName(`${spell(upper(timeline))}.history`);
  });

export const compressions = fc.constantFrom(null, 'gzip', 'bzip2', 'xz', 'zstd', 'lz4', 'snappy', 'pigz', 'custom');

/** Times as os.stat gives them to Barman, in nanoseconds: from before 1970 to 2200. */
export const nanoseconds = fc.bigInt({ min: -(10n ** 18n), max: 7_300_000_000n * 10n ** 9n });

export const walFileInfos: fc.Arbitrary<WalFileInfo> = fc.record({
  name: walNames,
  size: fc.integer({ min: 0, max: 2 ** 31 }),
  mtime: fc.double({ min: -1e10, max: 1e17, noNaN: true }).filter((mtime) => !Object.is(mtime, -0)),
  compression: compressions,
  encryption: fc.constantFrom(null, 'gpg'),
});
