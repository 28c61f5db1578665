import { describe, expect, test } from 'vitest';
import { findGaps, missingWithin, type Acknowledgement, type GapKnowledge } from '../../src/wal/gaps.ts';
import { segmentName, walName, type WalName } from '../../src/wal/wal-name.ts';
import { summariseWals } from '../../src/wal/wal-ranges.ts';

const SIZE = 1 << 24;
const wal = (segment: number, timeline = 1): WalName => segmentName(timeline, BigInt(segment), SIZE);
const history = (timeline: number): WalName => walName(`0000000${timeline}.history`);
const partial = (segment: number, timeline = 1): WalName => walName(`${wal(segment, timeline)}.partial`);
const NOTHING: GapKnowledge = { acknowledged: [], borders: new Set() };
const known = (first: WalName, last = first, reason = 'lost'): Acknowledgement => ({ first, last, reason, at: 5 });

async function gapsIn(names: readonly WalName[], knowledge: Partial<GapKnowledge> = {}): Promise<string[]> {
  const infos = names.map((name) => ({ name, size: 1, mtime: 1, compression: null, encryption: null }));
  const found = findGaps(await summariseWals([infos], SIZE), { ...NOTHING, ...knowledge }, SIZE);
  return [...found.values()].flat().map(({ first, last, segments, acknowledged }) => {
    const range = segments === 0 ? first : `${first}..${last} ${segments}`;
    return acknowledged === undefined ? range : `${range} (${acknowledged.reason})`;
  });
}

describe('what is missing', () => {
  test.each<[string, readonly WalName[], readonly string[]]>([
    ['nothing', [wal(1), wal(2)], []],
    [
      'segments, also across a log',
      [wal(1), wal(254), wal(257)],
      [`${wal(2)}..${wal(253)} 252`, `${wal(255)}..${wal(256)} 2`],
    ],
    ['a history file', [wal(1), wal(2), wal(2, 2)], [history(2)]],
    ['a history file, where its timeline has a partial file only', [wal(1), partial(2, 2)], [history(2)]],
    ['a history file, where the lower timeline has a partial file only', [partial(1), wal(1, 3)], [history(3)]],
    ['no history file that is there', [wal(1), history(2), wal(1, 2)], []],
    ['no history file of the first timeline in an archive that began later', [wal(7, 3), wal(8, 3)], []],
    ['no history file, where the lower timeline has a history file only', [history(2), wal(7, 3)], []],
    ['no history file of a timeline without WAL', [wal(1), history(3), wal(2, 3)], []],
    // pg_upgrade: the new cluster's first timeline begins behind all WAL of the old one.
    [
      'no history file where a new cluster began after an archive that began on a later timeline',
      [wal(7, 3), wal(20)],
      [],
    ],
  ])('%s', async (_what, names, expected) => {
    expect(await gapsIn(names)).toEqual(expected);
  });

  test('nothing is missing behind the last segment of another cluster', async () => {
    const names = [wal(1), wal(3), wal(9)];
    expect(await gapsIn(names, { borders: new Set([wal(3)]) })).toEqual([`${wal(2)}..${wal(2)} 1`]);
  });
});

describe('acknowledged gaps', () => {
  const names = [wal(1), wal(10), wal(12)];

  test.each<[string, readonly Acknowledgement[], readonly string[]]>([
    ['as a whole', [known(wal(2), wal(9))], [`${wal(2)}..${wal(9)} 8 (lost)`, `${wal(11)}..${wal(11)} 1`]],
    [
      'at its beginning',
      [known(wal(2), wal(4))],
      [`${wal(2)}..${wal(4)} 3 (lost)`, `${wal(5)}..${wal(9)} 5`, `${wal(11)}..${wal(11)} 1`],
    ],
    [
      'in its middle',
      [known(wal(4))],
      [`${wal(2)}..${wal(3)} 2`, `${wal(4)}..${wal(4)} 1 (lost)`, `${wal(5)}..${wal(9)} 5`, `${wal(11)}..${wal(11)} 1`],
    ],
    [
      'twice, where the later word counts',
      [known(wal(2), wal(9), 'old'), known(wal(8), wal(9), 'new')],
      [`${wal(2)}..${wal(7)} 6 (old)`, `${wal(8)}..${wal(9)} 2 (new)`, `${wal(11)}..${wal(11)} 1`],
    ],
    [
      'on another timeline, which says nothing of this one',
      [known(wal(2, 2), wal(9, 2))],
      [`${wal(2)}..${wal(9)} 8`, `${wal(11)}..${wal(11)} 1`],
    ],
    [
      'where the gap has grown',
      [known(wal(5), wal(9))],
      [`${wal(2)}..${wal(4)} 3`, `${wal(5)}..${wal(9)} 5 (lost)`, `${wal(11)}..${wal(11)} 1`],
    ],
  ])('%s', async (_what, acknowledged, expected) => {
    expect(await gapsIn(names, { acknowledged })).toEqual(expected);
  });

  test('a history file', async () => {
    const names2 = [wal(1), wal(1, 2)];
    expect(await gapsIn(names2, { acknowledged: [known(history(2))] })).toEqual([`${history(2)} (lost)`]);
    expect(await gapsIn(names2, { acknowledged: [known(history(3))] })).toEqual([history(2)]);
  });

  test('only what is missing can be acknowledged', async () => {
    const infos = names.map((name) => ({ name, size: 1, mtime: 1, compression: null, encryption: null }));
    const gaps = [...findGaps(await summariseWals([infos], SIZE), NOTHING, SIZE).values()].flat();
    expect(missingWithin({ first: wal(1), last: wal(11) }, gaps, SIZE)).toEqual([
      { first: wal(2), last: wal(9), segments: 8 },
      { first: wal(11), last: wal(11), segments: 1 },
    ]);
    expect(missingWithin({ first: wal(10), last: wal(10) }, gaps, SIZE)).toEqual([]);
    expect(missingWithin({ first: wal(2, 2), last: wal(9, 2) }, gaps, SIZE)).toEqual([]);
    expect(missingWithin({ first: history(2), last: history(2) }, gaps, SIZE)).toEqual([]);
  });
});
