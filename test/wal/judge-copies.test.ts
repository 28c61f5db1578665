import { describe, expect, test } from 'vitest';
import { crc32c } from '../../src/wal/crc32c.ts';
import { judgeCopies, judgeCopy, type CopyContent, type Judgement } from '../../src/wal/judge-copies.ts';
import { decodeLongPageHeader } from '../../src/wal/page-header.ts';
import { rightRecords } from '../../src/wal/records.ts';
import { parseWalName, type ParsedWalName } from '../../src/wal/wal-name.ts';
import { realSegments } from '../support/fixture.ts';
import { makeWal } from '../support/make-wal.ts';
import { partialWal, spliced } from './partial-wal.ts';

const PAGE = 8192;
const wal = await partialWal();
const good = wal.whole;
const zeros = Buffer.alloc(good.length);

function parsed(name: string): ParsedWalName {
  const found = parseWalName(name);
  if (found === undefined) throw new Error(name);
  return found;
}

const segment = parsed(wal.name);
const plain = (bytes: Buffer): CopyContent => ({ kind: 'plain', bytes });
const broken = (beginning: Buffer = Buffer.alloc(0)): CopyContent => ({
  kind: 'broken',
  reason: 'it does not decompress',
  beginning,
});
const UNREADABLE: CopyContent = { kind: 'unreadable', reason: 'no secret key', lost: false };
const LOST: CopyContent = { kind: 'unreadable', reason: 'EIO', lost: true };

/** With a byte of another value. */
function flipped(bytes: Buffer, at: number): Buffer<ArrayBuffer> {
  const copy: Buffer<ArrayBuffer> = Buffer.from(bytes);
  copy.writeUInt8((copy[at] ?? 0) ^ 0x10, at);
  return copy;
}

function withHole(bytes: Buffer, from: number, to: number): Buffer {
  return spliced(spliced(bytes, from, zeros), to, bytes);
}

/** As a server of an unknown release writes it. */
function ofMagic(bytes: Buffer, magic: number): Buffer {
  const copy = Buffer.from(bytes);
  for (let at = 0; at < copy.length; at += PAGE) if (copy.readUInt16LE(at) !== 0) copy.writeUInt16LE(magic, at);
  return copy;
}

const header = decodeLongPageHeader(good);
if (!header.ok) throw new Error(header.reason);
const records = [...rightRecords(good, header.header, segment.timeline)];
const early =
  records.find(({ start, end }) => start > 5 * PAGE && end > start + 24 && end % PAGE > start % PAGE)?.start ?? 0;
const late = records.findLast(({ start }) => start < good.length - 5 * PAGE)?.start ?? 0;
/** Another WAL: one record holds something else, with the right checksum. */
const foreign = (() => {
  const copy = flipped(good, early + 24);
  const length = copy.readUInt32LE(early);
  copy.writeUInt32LE(crc32c([copy.subarray(early + 24, early + length), copy.subarray(early, early + 20)]), early + 20);
  return copy;
})();

const CASES: readonly (readonly [
  what: string,
  archived: CopyContent,
  delivered: CopyContent,
  result: Judgement['result'],
])[] = [
  ['the same', plain(good), plain(good), 'same'],
  ['an empty one and a good one', plain(Buffer.alloc(0)), plain(good), 'replaceable'],
  ['one cut short and a good one', plain(good.subarray(0, 300_000)), plain(good), 'replaceable'],
  ['one cut inside its first page', plain(good.subarray(0, 20)), plain(good), 'replaceable'],
  ['one that is too long', plain(Buffer.concat([good, Buffer.alloc(8192)])), plain(good), 'replaceable'],
  ['one without its first page', plain(withHole(good, 0, PAGE)), plain(good), 'replaceable'],
  ['one of zeros', plain(zeros), plain(good), 'replaceable'],
  ['one with a hole of pages', plain(withHole(good, 30 * PAGE, 60 * PAGE)), plain(good), 'replaceable'],
  ['one with a hole inside a page', plain(withHole(good, early + 8, early + 200)), plain(good), 'replaceable'],
  ['one with a flipped byte', plain(flipped(good, early + 24)), plain(good), 'replaceable'],
  ['one with a record that is linked wrong', plain(flipped(good, early + 9)), plain(good), 'replaceable'],
  ['one that does not decompress', broken(), plain(good), 'replaceable'],
  ['one of which half decompresses', broken(good.subarray(0, 500_001)), plain(good), 'replaceable'],
  [
    'one of which half decompresses, with garbage at its end',
    broken(flipped(good.subarray(0, 500_001), 499_000)),
    plain(good),
    'replaceable',
  ],
  ['one cut short of another WAL', plain(foreign.subarray(0, 300_000)), plain(good), 'conflict'],
  ['one of which half decompresses, to another WAL', broken(foreign.subarray(0, 500_000)), plain(good), 'conflict'],
  ['one whose records differ behind the damage', plain(withHole(foreign, PAGE, 2 * PAGE)), plain(good), 'conflict'],
  ['a damaged one, and one that ends inside', plain(flipped(good, early + 24)), plain(wal.padded), 'unclear'],
  ['an empty one, and one that ends inside', plain(Buffer.alloc(0)), plain(wal.recycled), 'unclear'],
  [
    'a damaged one and another damaged one',
    plain(flipped(good, early + 24)),
    plain(flipped(good, late + 24)),
    'both-damaged',
  ],
  ['a good one and an empty one', plain(good), plain(Buffer.alloc(0)), 'delivered-damaged'],
  ['a good one and a damaged one', plain(good), plain(flipped(good, early + 24)), 'delivered-damaged'],
  ['a good one and one that does not decompress', plain(good), broken(), 'delivered-damaged'],
  [
    'two good ones that differ where no record verifies',
    plain(flipped(good, good.length - 1)),
    plain(good),
    'conflict',
  ],
  ['one that differs in the record from the segment before', plain(flipped(good, 41)), plain(good), 'conflict'],
  ['one that ends inside, and one that goes on', plain(wal.padded), plain(good), 'replaceable'],
  ['one that ends inside with old pages behind, and one that goes on', plain(wal.recycled), plain(good), 'replaceable'],
  ['one that ends inside, and one that ends later', plain(wal.shorter), plain(wal.padded), 'replaceable'],
  ['one that ends inside, and one that ends earlier', plain(wal.padded), plain(wal.shorter), 'covered'],
  ['a whole one, and one that ends inside it', plain(good), plain(wal.recycled), 'covered'],
  ['two that end at the same place', plain(wal.padded), plain(wal.recycled), 'covered'],
  [
    'one that ends inside, and another WAL that goes on',
    plain(spliced(foreign, 500_000, zeros)),
    plain(good),
    'conflict',
  ],
  ['one that can not be decrypted here', UNREADABLE, plain(good), 'unclear'],
  ['one that the disk does not give back', LOST, plain(good), 'unclear'],
  ['a good one, and one that can not be decrypted here', plain(good), UNREADABLE, 'unclear'],
  ['a damaged one, and one that can not be decrypted here', broken(), UNREADABLE, 'unclear'],
  ['a damaged one of an unknown release, and a good one', plain(zeros), plain(ofMagic(good, 0xd177)), 'replaceable'],
  [
    'a flipped byte in one of an unknown release',
    plain(ofMagic(flipped(good, early + 24), 0xd177)),
    plain(ofMagic(good, 0xd177)),
    'unclear',
  ],
  [
    'a hole in one of an unknown release',
    plain(ofMagic(withHole(good, 8 * PAGE, 9 * PAGE), 0xd177)),
    plain(ofMagic(good, 0xd177)),
    'replaceable',
  ],
  [
    'an empty one, and one whose records are not known',
    plain(Buffer.alloc(0)),
    plain(ofMagic(makeWal({ segment: segment.segment, timeline: segment.timeline }).bytes, 0xd177)),
    'unclear',
  ],
];

describe('of two copies of a segment', () => {
  test.each(CASES)('%s', (_what, archived, delivered, result) => {
    const judgement = judgeCopies(segment, archived, delivered);
    expect({ judgement }).toMatchObject({ judgement: { result } });
  });

  test('what only a person can decide is marked as such, and nothing else', () => {
    const forcible = CASES.filter(([, archived, delivered]) => {
      const judgement = judgeCopies(segment, archived, delivered);
      return judgement.result === 'unclear' && judgement.forcible;
    });
    expect(forcible.map(([what]) => what)).toEqual([
      'one that the disk does not give back',
      'an empty one, and one whose records are not known',
    ]);
  });

  test('both are named with what they prove', () => {
    expect(judgeCopies(segment, plain(flipped(good, early + 24)), plain(good))).toMatchObject({
      text: expect.stringMatching(
        /^the archived copy is damaged: the record at byte \d+ has a wrong checksum, and WAL of this segment follows it; this one is whole: its records go on into the one that goes on behind it$/,
      ),
    });
    expect(judgeCopies(segment, plain(good.subarray(0, 300_000)), plain(good))).toMatchObject({
      text: expect.stringContaining('the archived copy is damaged: 300000 of 1048576 bytes'),
    });
    expect(judgeCopies(segment, plain(withHole(good, 8 * PAGE, 9 * PAGE)), plain(good))).toMatchObject({
      text: expect.stringContaining('the archived copy is damaged: page 8 (at byte 65536)'),
    });
  });

  test('a page that another one contradicts is no proof where the server gave up a record', () => {
    const given = Buffer.from(flipped(good, early + 24));
    const page = Math.ceil(early / PAGE) * PAGE;
    given.writeUInt16LE(given.readUInt16LE(page + 2) | 0x0008, page + 2);
    expect(judgeCopies(segment, plain(given), plain(good)).result).toBe('unclear');
  });

  test('whatever a copy has lost, it is replaceable by a good one, or nothing is said of it', () => {
    for (let at = 0; at < good.length; at += 133_331) {
      for (const length of [1, 9_000]) {
        const damaged = withHole(good, at, Math.min(at + length, good.length));
        const { result } = judgeCopies(segment, plain(damaged), plain(good));
        if (damaged.equals(good)) expect(result).toBe('same');
        else expect(['replaceable', 'conflict', 'unclear']).toContain(result);
        // The other way round the good one is never replaced.
        expect(['replaceable', 'covered']).not.toContain(judgeCopies(segment, plain(good), plain(damaged)).result);
      }
    }
  });
});

describe('of two copies of a partial segment', () => {
  const partial = parsed(`${wal.name}.partial`);

  test.each<[string, CopyContent, CopyContent, Judgement['result']]>([
    ['one cut short, and a good one', plain(wal.padded.subarray(0, 100_000)), plain(wal.padded), 'replaceable'],
    ['one that does not decompress', broken(), plain(wal.padded), 'replaceable'],
    ['one with a hole', plain(withHole(wal.padded, 4 * PAGE, 5 * PAGE)), plain(wal.padded), 'replaceable'],
    ['one that ends earlier', plain(wal.shorter), plain(wal.padded), 'replaceable'],
    ['one that ends later', plain(wal.padded), plain(wal.shorter), 'covered'],
    ['one of another WAL', plain(spliced(foreign, 300_000, zeros)), plain(wal.padded), 'conflict'],
  ])('%s', (_what, archived, delivered, result) => {
    expect(judgeCopies(partial, archived, delivered)).toMatchObject({ result });
  });
});

describe('of two copies of a history file', () => {
  const name = parsed('00000003.history');
  const text = '1\t0/500000\tno recovery target specified\n\n2\t0/900000\tno recovery target specified\n';

  test.each<[string, CopyContent, string, Judgement['result']]>([
    ['an empty one', plain(Buffer.alloc(0)), text, 'replaceable'],
    ['one cut in a line', plain(Buffer.from(text.slice(0, 60))), text, 'replaceable'],
    ['one of zeros', plain(Buffer.alloc(80)), text, 'replaceable'],
    [
      'one with garbage behind its first line',
      plain(Buffer.from(`${text.slice(0, 41)}\u0001\u0002\n`)),
      text,
      'replaceable',
    ],
    ['one cut in a line of another history', plain(Buffer.from(text.replace('5', '6').slice(0, 60))), text, 'conflict'],
    ['another history', plain(Buffer.from(text.replace('5', '6'))), text, 'conflict'],
    ['a good one and an empty one', plain(Buffer.from(text)), '', 'delivered-damaged'],
  ])('%s', (_what, archived, delivered, result) => {
    expect(judgeCopies(name, archived, plain(Buffer.from(delivered)))).toMatchObject({ result });
  });
});

test('of WAL whose headers are not read, only the size proves anything, and a person has to say the rest', () => {
  const noise = Buffer.alloc(1024 * 1024, 'noise');
  const opaque = { segmentSize: noise.length };
  const judge = (archived: Buffer, delivered: Buffer, own = opaque): Judgement =>
    judgeCopies(segment, plain(archived), plain(delivered), own);
  expect(judge(noise.subarray(0, 1000), noise)).toMatchObject({ result: 'unclear', forcible: true });
  expect(judge(Buffer.alloc(noise.length, 'other'), noise)).toMatchObject({ result: 'unclear', forcible: false });
  expect(judgeCopies(segment, plain(zeros.subarray(9)), plain(noise), { segmentSize: null })).toMatchObject({
    result: 'unclear',
    forcible: false,
  });
  expect(judge(noise, noise.subarray(0, 1000))).toMatchObject({ result: 'unclear' });
});

test('every segment that PostgreSQL wrote is whole', async () => {
  for (const [name, bytes] of await realSegments()) {
    expect(judgeCopy(parsed(name), plain(bytes))).toMatchObject({ state: 'whole' });
  }
});
