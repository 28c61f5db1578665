import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { archivedRun, type VerifiedSegments } from '../../src/receiver/archived-run.ts';
import type { ArchivedRun } from '../../src/receiver/start-decision.ts';
import type { StreamingFile } from '../../src/receiver/streaming-directory.ts';
import { decodeLongPageHeader } from '../../src/wal/page-header.ts';
import { parseWalName, segmentNumber, walName, type WalName } from '../../src/wal/wal-name.ts';
import { realSegments } from '../support/fixture.ts';
import { withTempDir } from '../support/temp-dir.ts';

const MIB = 1024 * 1024;
const REAL = [...(await realSegments())].map(([name, bytes]) => ({ name: walName(name, 'the fixture'), bytes }));
const [FIRST = expect.unreachable()] = REAL;
const PARSED = parseWalName(FIRST.name) ?? expect.unreachable();
const START = segmentNumber(PARSED, MIB) * BigInt(MIB);
const decoded = decodeLongPageHeader(FIRST.bytes);
const SERVER = {
  timeline: PARSED.timeline,
  lsn: START + 100n * BigInt(MIB),
  history: [],
  segmentSize: MIB,
  systemIdentifier: decoded.ok ? decoded.header.systemIdentifier : expect.unreachable(),
};

/** An archive that counts what is read of it. */
class Archive {
  readonly files = new Map<WalName, Buffer>(REAL.map(({ name, bytes }) => [name, bytes]));
  reads: WalName[] = [];
  readonly readArchived = async (name: WalName): Promise<Buffer | null> => {
    this.reads.push(name);
    return this.files.get(name) ?? null;
  };
  readonly archivedAmong = async (names: readonly WalName[]): Promise<ReadonlySet<WalName>> =>
    new Set(names.filter((name) => this.files.has(name)));
}

const at = (segments: number): bigint => START + BigInt(segments * MIB);

function run(archive: Partial<Archive>, verified?: VerifiedSegments, directory = ''): Promise<ArchivedRun> {
  const partial = `${FIRST.name}.partial`;
  const file: StreamingFile | null =
    directory === ''
      ? null
      : { entry: partial, timeline: PARSED.timeline, segment: 0n, partial: true, compressed: false, size: MIB };
  const settings = { ...archive, streamingDirectory: directory, reportPath: join(directory, 'report') };
  return archivedRun(settings, { lsn: START, file }, SERVER, SERVER.lsn, { verified });
}

describe('what is archived behind a position', () => {
  test('ends with the first segment that is not, and nothing behind that is read', async () => {
    const archive = new Archive();
    expect(await run(archive)).toEqual({ end: at(7), problem: null });
    archive.files.delete(REAL[3]?.name ?? expect.unreachable());
    archive.reads = [];
    expect(await run(archive)).toEqual({ end: at(3), problem: null });
    expect(archive.reads).toEqual(REAL.slice(0, 3).map(({ name }) => name));
  });

  test('is read once only, but for the first segment and what is new', async () => {
    const archive = new Archive();
    const verified: VerifiedSegments = new Set();
    const { name, bytes } = REAL[4] ?? expect.unreachable();
    archive.files.delete(name);
    expect(await run(archive, verified)).toEqual({ end: at(4), problem: null });
    archive.reads = [];
    expect(await run(archive, verified)).toEqual({ end: at(4), problem: null });
    expect(archive.reads).toEqual([FIRST.name]);
    archive.files.set(name, bytes);
    archive.reads = [];
    expect(await run(archive, verified)).toEqual({ end: at(7), problem: null });
    expect(archive.reads).toEqual([FIRST.name, ...REAL.slice(4).map((one) => one.name)]);
  });

  test('ends at a segment that was verified and is gone since', async () => {
    const archive = new Archive();
    const verified: VerifiedSegments = new Set();
    await run(archive, verified);
    archive.files.delete(REAL[2]?.name ?? expect.unreachable());
    expect(await run(archive, verified)).toEqual({ end: at(2), problem: null });
    // Where it can't be asked what is there, reading tells.
    expect(await run({ readArchived: archive.readArchived }, verified)).toEqual({ end: at(2), problem: null });
  });

  test('does not stand in for what was received beside it, also when it was verified before', () =>
    withTempDir(async (directory) => {
      const archive = new Archive();
      const verified: VerifiedSegments = new Set();
      const partial = join(directory, `${FIRST.name}.partial`);
      await writeFile(partial, Buffer.concat([FIRST.bytes.subarray(0, MIB / 2), Buffer.alloc(MIB / 2)]));
      expect(await run(archive, verified, directory)).toEqual({ end: at(7), problem: null });
      const other = Buffer.from(FIRST.bytes.subarray(0, MIB / 2));
      other.writeUInt8(other.readUInt8(70_000) ^ 1, 70_000);
      await writeFile(partial, other);
      expect(await run(archive, verified, directory)).toMatchObject({
        problem: expect.stringContaining('does not begin with'),
      });
    }));

  test('is of no use where one of it is damaged, each time that it is looked at', async () => {
    const archive = new Archive();
    const verified: VerifiedSegments = new Set();
    const { name, bytes } = REAL[2] ?? expect.unreachable();
    const damaged = Buffer.from(bytes);
    damaged.fill(0, MIB / 2);
    archive.files.set(name, damaged);
    const wrong = { problem: expect.stringContaining(name) };
    expect(await run(archive, verified)).toMatchObject(wrong);
    expect(await run(archive, verified)).toMatchObject(wrong);
    archive.files.set(name, bytes);
    expect(await run(archive, verified)).toEqual({ end: at(7), problem: null });
  });
});
