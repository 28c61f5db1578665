import { expect, test } from 'vitest';
import { ReadAhead, type ReadAheadLimits, type ReadAheadSource } from '../../../src/daemon/http/read-ahead.ts';
import { segmentName, walName, type WalName } from '../../../src/wal/wal-name.ts';
import { until } from '../../support/poll.ts';

const MIB = 1024 * 1024;
const nameOf = (segment: number, size = MIB): WalName => segmentName(1, BigInt(segment), size);

interface Archive {
  readonly source: ReadAheadSource;
  /** What was read, in order. */
  readonly read: WalName[];
  /** At the same time, at most. */
  readonly most: () => number;
  /** Lets reads that wait for it go on. */
  readonly release: () => void;
}

/** Segments 0 to `last`, in no time or once they are released. */
function archiveOf(last: number, options: Partial<ReadAheadSource> & { held?: boolean; size?: number } = {}): Archive {
  const { held = false, size = MIB, ...rest } = options;
  const names = new Set(Array.from({ length: last + 1 }, (_, segment) => nameOf(segment, size)));
  const read: WalName[] = [];
  let [now, most] = [0, 0];
  let open = (): void => {};
  const gate = held ? new Promise<void>((resolve) => (open = resolve)) : Promise.resolve();
  const source: ReadAheadSource = {
    server: 'main',
    ahead: 4,
    atATime: 1,
    stored: async (wanted) => new Set(wanted.filter((name) => names.has(name))),
    find: async (name) => {
      read.push(name);
      now += 1;
      most = Math.max(most, now);
      await gate;
      now -= 1;
      return Buffer.from(name);
    },
    ...rest,
  };
  return { source, read, most: () => most, release: open };
}

async function withReadAhead(
  limits: Partial<ReadAheadLimits>,
  body: (ahead: ReadAhead) => Promise<void>,
): Promise<void> {
  const ahead = new ReadAhead(limits);
  try {
    await body(ahead);
  } finally {
    await ahead.close();
    expect(ahead.held).toBe(0);
  }
}

test('four at first, then one for each that is asked for, each read once', () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(100);
    expect(await ahead.take('main', nameOf(0))).toBeNull();
    ahead.follow(source, nameOf(0), MIB);
    await until('four', () => read.length === 4);
    for (let segment = 1; segment <= 50; segment += 1) {
      expect(String(await ahead.take('main', nameOf(segment)))).toBe(nameOf(segment));
      ahead.follow(source, nameOf(segment), MIB);
      await until('the next', () => read.length === segment + 4);
    }
    expect(read).toEqual(Array.from({ length: 54 }, (_, index) => nameOf(index + 1)));
    expect(ahead.held).toBe(4 * MIB);
  }));

test('whoever asks for one that is being read waits for that', () =>
  withReadAhead({}, async (ahead) => {
    const { source, read, release } = archiveOf(10, { held: true });
    ahead.follow(source, nameOf(0), MIB);
    await until('one', () => read.length === 1);
    const both = [ahead.take('main', nameOf(1)), ahead.take('main', nameOf(1))];
    release();
    expect((await Promise.all(both)).map(String)).toEqual([nameOf(1), nameOf(1)]);
    expect(read.filter((name) => name === nameOf(1))).toHaveLength(1);
  }));

test('nothing is remembered of what was absent, or failed', () =>
  withReadAhead({}, async (ahead) => {
    let broken = true;
    const { source, read } = archiveOf(3);
    const find = async (name: WalName): Promise<Buffer | null> => {
      if (broken) throw new Error('the storage is away');
      return source.find(name);
    };
    ahead.follow({ ...source, find }, nameOf(0), MIB);
    await until('it to be given up', () => ahead.held === 0);
    broken = false;
    ahead.follow({ ...source, find }, nameOf(0), MIB);
    await until('three of four, for there are no more', () => read.length === 3);
    expect(await ahead.take('main', nameOf(4))).toBeNull();
    const grown = archiveOf(9);
    ahead.follow(grown.source, nameOf(3), MIB);
    await until('the new ones', () => grown.read.includes(nameOf(4)));
    expect(await ahead.take('main', nameOf(4))).not.toBeNull();
  }));

test('what was asked for while the archive was looked at is not read ahead any more', () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(3);
    let answer = (): void => {};
    const looking = new Promise<void>((resolve) => (answer = resolve));
    const stored = async (names: readonly WalName[]): Promise<ReadonlySet<WalName>> => {
      await looking;
      return source.stored(names);
    };
    ahead.follow({ ...source, stored }, nameOf(0), MIB);
    expect(await ahead.take('main', nameOf(1))).toBeNull();
    answer();
    await until('the others', () => read.length === 2);
    expect(read).toEqual([nameOf(2), nameOf(3)]);
  }));

test("servers don't share, and two clients of one server at different places both are ahead", () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(2_000);
    ahead.follow(source, nameOf(0), MIB);
    ahead.follow(source, nameOf(1_000), MIB);
    await until('eight', () => read.length === 8);
    for (const segment of [1, 1_001, 2, 1_002]) {
      expect(await ahead.take('other', nameOf(segment))).toBeNull();
      expect(String(await ahead.take('main', nameOf(segment)))).toBe(nameOf(segment));
      ahead.follow(source, nameOf(segment), MIB);
    }
    await until('the next four', () => read.length === 12);
    expect(ahead.held).toBe(8 * MIB);
  }));

test("two clients that go side by side don't have anything read twice", () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(100);
    ahead.follow(source, nameOf(0), MIB);
    ahead.follow(source, nameOf(0), MIB);
    ahead.follow(source, nameOf(1), MIB);
    await until('the four behind the one that is ahead', () => read.length === 4);
    expect(read).toEqual([2, 3, 4, 5].map((segment) => nameOf(segment)));
  }));

test('memory is bounded, whatever the segment size and however many read', () =>
  withReadAhead({ bytes: 128 * MIB }, async (ahead) => {
    const size = 16 * MIB;
    const { source } = archiveOf(200_000, { size });
    for (let round = 0; round < 5; round += 1) {
      for (let client = 0; client < 12; client += 1) {
        const name = nameOf(client * 1_000 + round, size);
        await ahead.take('main', name);
        ahead.follow(source, name, size);
        expect(ahead.held).toBeLessThanOrEqual(128 * MIB);
      }
      await until('something', () => ahead.held > 0);
    }
    const large = archiveOf(10, { size: 256 * MIB });
    ahead.follow({ ...large.source, server: 'large' }, nameOf(0, 256 * MIB), 256 * MIB);
    expect(large.read).toEqual([]);
  }));

test('a client alone has as many as fit: two of 64 MiB', () =>
  withReadAhead({}, async (ahead) => {
    const size = 64 * MIB;
    const { source, read } = archiveOf(10, { size });
    ahead.follow(source, nameOf(0, size), size);
    await until('two', () => read.length === 2);
    expect(ahead.held).toBe(128 * MIB);
  }));

test('who asks for nothing for a while is forgotten, and makes room for others before', () =>
  withReadAhead({ forgetMs: 50, bytes: 4 * MIB, spareMs: 0 }, async (ahead) => {
    const { source, read } = archiveOf(2_000);
    ahead.follow(source, nameOf(0), MIB);
    await until('four', () => read.length === 4);
    ahead.follow(source, nameOf(1_000), MIB);
    await until('another client to be served', () => read.includes(nameOf(1_001)));
    await until('all to be forgotten', () => ahead.held === 0);
  }));

test('a client that jumps inside of what was read takes what it needs, and the rest goes', () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(100);
    ahead.follow(source, nameOf(0), MIB);
    await until('four', () => read.length === 4);
    expect(await ahead.take('main', nameOf(3))).not.toBeNull();
    ahead.follow(source, nameOf(3), MIB);
    await until('the next', () => read.length === 7);
    expect(await ahead.take('main', nameOf(1))).toBeNull();
    expect(ahead.held).toBe(4 * MIB);
  }));

test.each([1, 3])('%i at a time', (atATime) =>
  withReadAhead({}, async (ahead) => {
    const { source, read, most, release } = archiveOf(100, { atATime, held: true });
    ahead.follow(source, nameOf(0), MIB);
    await until('the first', () => read.length === atATime);
    release();
    await until('all', () => read.length === 4);
    expect(most()).toBe(atATime);
  }),
);

test('history files and backup labels are not followed', () =>
  withReadAhead({}, async (ahead) => {
    const { source, read } = archiveOf(100);
    for (const name of ['00000002.history', `${nameOf(1)}.00000028.backup`, `${nameOf(1)}.partial`]) {
      ahead.follow(source, walName(name), MIB);
    }
    await ahead.close();
    expect(read).toEqual([]);
  }));

test('close() waits for what is under way, and begins nothing more', async () => {
  const ahead = new ReadAhead();
  const { source, read, release } = archiveOf(100, { held: true });
  ahead.follow(source, nameOf(0), MIB);
  await until('one', () => read.length === 1);
  let closed = false;
  const closing = ahead.close().then(() => (closed = true));
  ahead.follow(source, nameOf(50), MIB);
  await Promise.resolve();
  expect(closed).toBe(false);
  release();
  await closing;
  expect(read).toEqual([nameOf(1)]);
});
