import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { judgeContent, judgeSegment, judgeTextFile, MAX_TEXT_FILE_SIZE } from '../../src/wal/verify.ts';
import { parseWalName, segmentName, type ParsedWalName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { segments, timelines } from './arbitraries.ts';

const MIB = 1024 * 1024;

function parsed(name: string): ParsedWalName {
  const result = parseWalName(name);
  if (result === undefined) throw new Error(`no WAL name: ${name}`);
  return result;
}

describe('a segment', () => {
  test('is valid under the name that its header means, for every segment size and timeline', () => {
    // The size of the rest is all that counts of it.
    const firstPage = makeWal().bytes.subarray(0, 8192);
    fc.assert(
      fc.property(timelines, segments, (timeline, { number, size }) => {
        const bytes = Buffer.from(firstPage);
        bytes.writeUInt32LE(timeline, 4);
        bytes.writeBigUInt64LE(number * BigInt(size), 8);
        bytes.writeUInt32LE(size, 32);
        const name = parsed(segmentName(timeline, number, size));
        expect(judgeSegment(name, bytes, size, null).verdict).toBe('valid');
        expect(judgeSegment(name, bytes, size - 1, null).verdict).toBe('incomplete');
        expect(judgeSegment(name, bytes, size + 1, null).verdict).toBe('invalid');
        expect(judgeSegment(name, bytes.subarray(0, 8191), 39, null).verdict).toBe('incomplete');
        if (number > 0n) {
          expect(judgeSegment(parsed(segmentName(timeline, number - 1n, size)), bytes, size, null).verdict).toBe(
            'invalid',
          );
        }
      }),
    );
  });

  test('may begin with a page of an ancestor, but not of a later timeline', () => {
    const { bytes } = makeWal({ timeline: 3, segment: 8, pageTimeline: 1 });
    expect(judgeContent(parsed(segmentName(3, 8n, MIB)), bytes, null)).toMatchObject({ verdict: 'valid' });
    expect(judgeContent(parsed(`${segmentName(3, 8n, MIB)}.partial`), bytes, null)).toMatchObject({ verdict: 'valid' });
    const later = makeWal({ timeline: 3, segment: 8, pageTimeline: 4 }).bytes;
    expect(judgeContent(parsed(segmentName(3, 8n, MIB)), later, null)).toMatchObject({
      verdict: 'invalid',
      reason: 'its first page is of timeline 4, and its name of timeline 3',
    });
  });

  test.each([
    ['zeros', (bytes: Buffer) => bytes.fill(0), /no WAL page magic/],
    ['an odd segment size', (bytes: Buffer) => bytes.writeUInt32LE(MIB + 1, 32), /impossible segment size of 1048577/],
    ['another address', (bytes: Buffer) => bytes.writeBigUInt64LE(0x500000n, 8), /address 0x500000.*means 0x100000/],
    ['a number that the size rules out', (bytes: Buffer) => bytes.writeUInt32LE(1024 * MIB, 32), /address|no segment/],
  ])('with %s is invalid, and the reason says so', (_what, spoil, reason) => {
    const { name, bytes } = makeWal({ segment: 1 });
    spoil(bytes);
    const verdict = judgeContent(parsed(name), bytes, null);
    expect(verdict).toMatchObject({ verdict: 'invalid', reason: expect.stringMatching(reason) });
  });
});

describe('a history file', () => {
  const name = parsed('00000003.history');
  const text = '1\t0/5000098\tno recovery target specified\n\n2\t0/7000110\tat restore point "x"\n';

  test('is valid as a whole, and incomplete as any beginning of it', () => {
    expect(judgeTextFile(name, Buffer.from(text))).toEqual({ verdict: 'valid', header: null });
    for (let length = 0; length < text.length; length += 1) {
      const { verdict } = judgeTextFile(name, Buffer.from(text.slice(0, length)));
      expect(verdict).toBe(text[length - 1] === '\n' ? 'valid' : 'incomplete');
    }
  });

  test.each([
    ['garbage', 'garbage\n'],
    ['binary data', '1\t0/5000098\t\0\n'],
    ['timelines above its own', '7\t0/5000098\tx\n'],
    ['a megabyte', '#'.repeat(MAX_TEXT_FILE_SIZE + 1)],
  ])('of %s is invalid', (_what, content) => {
    expect(judgeTextFile(name, Buffer.from(content)).verdict).toBe('invalid');
  });
});

describe('a backup history file', () => {
  const name = parsed('000000010000000000000014.00000028.backup');
  const text = [
    'START WAL LOCATION: 0/14000028 (file 000000010000000000000014)',
    'STOP WAL LOCATION: 0/14000100 (file 000000010000000000000014)',
    'CHECKPOINT LOCATION: 0/14000060',
    'BACKUP METHOD: streamed',
    'BACKUP FROM: primary',
    'START TIME: 2026-11-21 09:00:00 UTC',
    'LABEL: a label with STOP TIME in it',
    'START TIMELINE: 1',
    'STOP TIME: 2026-11-21 09:00:05 UTC',
    'STOP TIMELINE: 1',
    '',
  ].join('\n');

  test('is valid as PostgreSQL writes it, and nothing but a whole one is', () => {
    expect(judgeTextFile(name, Buffer.from(text))).toEqual({ verdict: 'valid', header: null });
    const stop = text.lastIndexOf('STOP TIME:');
    for (let length = 0; length < stop; length += 1) {
      expect(judgeTextFile(name, Buffer.from(text.slice(0, length))).verdict).toBe('incomplete');
    }
    expect(judgeTextFile(name, Buffer.from(text.slice(0, -1))).verdict).toBe('incomplete');
  });

  test('of another backup, or that is none, is invalid', () => {
    expect(judgeTextFile(parsed('000000010000000000000015.00000028.backup'), Buffer.from(text))).toMatchObject({
      verdict: 'invalid',
      reason: 'it belongs to a backup that started in segment 000000010000000000000014',
    });
    expect(judgeTextFile(name, Buffer.from('hello\n')).verdict).toBe('invalid');
  });
});
