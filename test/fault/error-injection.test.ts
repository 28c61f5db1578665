import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { walDirectory } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { withFaultHome, type FaultHome, type FaultOptions } from './fault-home.ts';
import { requireStrace, runTraced } from './strace.ts';

beforeAll(requireStrace);

const first = makeWal({ segment: 1, content: 'zeros' }).name;
const second = makeWal({ segment: 2, content: 'zeros' }).name;

/** The files of the second of three segments. */
interface Places {
  readonly source: string;
  readonly claim: string;
  readonly final: string;
  readonly directory: string;
  readonly catalogue: string;
  readonly claims: string;
}

function placesIn({ home }: FaultHome): Places {
  const final = join(home.wals, walDirectory(second), second);
  return {
    source: join(home.incoming, second),
    claim: join(home.home, home.server, '.claimed', 'incoming', second),
    final,
    directory: dirname(final),
    catalogue: join(home.wals, 'main-xlog.db'),
    claims: join(home.home, home.server, '.claimed', 'incoming'),
  };
}

interface Fault {
  readonly options: FaultOptions;
  readonly syscall: string;
  readonly error: string;
  readonly at: (places: Places) => string;
}

const ZSTD = { compression: 'zstd' } as const;
const NONE = {};
const temporary = ({ final }: Places): string => `${final}.tmp`;

async function runWith(fault: FaultHome, { syscall, error, at }: Fault, when = '1+'): ReturnType<typeof runTraced> {
  return runTraced({
    config: fault.config,
    args: ['archive-wal', 'main'],
    syscalls: [syscall],
    paths: [at(placesIn(fault))],
    inject: [`${syscall}:error=${error}:when=${when}`],
    output: join(fault.home.home, 'trace'),
  });
}

async function expectInjected(fault: FaultHome): Promise<void> {
  expect(await readFile(join(fault.home.home, 'trace'), 'utf8')).toContain('(INJECTED)');
}

describe.concurrent(
  'a destination that fails ends the pass with a message; nothing is lost, and the next pass heals',
  () => {
    const faults: readonly Fault[] = [
      { options: ZSTD, syscall: 'openat', error: 'ENOSPC', at: temporary },
      { options: ZSTD, syscall: 'openat', error: 'EROFS', at: temporary },
      { options: ZSTD, syscall: 'openat', error: 'EDQUOT', at: temporary },
      { options: ZSTD, syscall: 'openat', error: 'EMFILE', at: temporary },
      { options: ZSTD, syscall: 'openat', error: 'EACCES', at: temporary },
      { options: ZSTD, syscall: 'write', error: 'ENOSPC', at: temporary },
      { options: ZSTD, syscall: 'write', error: 'EDQUOT', at: temporary },
      { options: ZSTD, syscall: 'write', error: 'EIO', at: temporary },
      { options: ZSTD, syscall: 'fchmod', error: 'EPERM', at: temporary },
      { options: ZSTD, syscall: 'fsync', error: 'EIO', at: temporary },
      { options: ZSTD, syscall: 'fsync', error: 'ENOSPC', at: temporary },
      { options: ZSTD, syscall: 'link', error: 'EIO', at: ({ final }) => final },
      { options: ZSTD, syscall: 'link', error: 'ENOSPC', at: ({ final }) => final },
      { options: ZSTD, syscall: 'mkdir', error: 'ENOSPC', at: ({ directory }) => directory },
      { options: ZSTD, syscall: 'mkdir', error: 'EDQUOT', at: ({ directory }) => directory },
      { options: NONE, syscall: 'mkdir', error: 'EROFS', at: ({ directory }) => directory },
      { options: ZSTD, syscall: 'fsync', error: 'EIO', at: ({ directory }) => directory },
      { options: ZSTD, syscall: 'unlink', error: 'EIO', at: temporary },
      { options: ZSTD, syscall: 'unlink', error: 'EROFS', at: ({ source }) => source },
      { options: NONE, syscall: 'rename', error: 'EACCES', at: ({ source }) => source },
      { options: NONE, syscall: 'link', error: 'EIO', at: ({ final }) => final },
      { options: NONE, syscall: 'link', error: 'EROFS', at: ({ final }) => final },
      { options: NONE, syscall: 'fsync', error: 'EIO', at: ({ directory }) => directory },
      { options: NONE, syscall: 'fsync', error: 'EIO', at: ({ claims }) => claims },
      { options: NONE, syscall: 'unlink', error: 'EACCES', at: ({ claim }) => claim },
      { options: NONE, syscall: 'openat', error: 'EMFILE', at: ({ catalogue }) => catalogue },
      { options: NONE, syscall: 'write', error: 'ENOSPC', at: ({ catalogue }) => catalogue },
      // The catalogue is written anew the first time.
      { options: NONE, syscall: 'fsync', error: 'EIO', at: ({ catalogue }) => `${catalogue}.tmp` },
      { options: NONE, syscall: 'rename', error: 'ENOSPC', at: ({ catalogue }) => `${catalogue}.tmp` },
    ];

    test.each(faults.map((fault) => [label(fault), fault] as const))('%s', (_label, fault) =>
      withFaultHome({ ...fault.options, archiver_workers: 0 }, async (home) => {
        await home.deliverSegments(1, 3);
        const { status, stderr } = await runWith(home, fault);
        await expectInjected(home);
        expect({ status, stderr }).toMatchObject({
          status: 1,
          stderr: expect.stringMatching(/^ERROR: can't .+\n(HINT: .+\n)?$/),
        });
        expect(stderr).toContain(fault.error);
        expect(await home.violations('crashed')).toEqual([]);
        expect(await home.archive()).toMatchObject({ status: 0 });
        expect(await home.violations('healed')).toEqual([]);
      }),
    );

    test('an append to the catalogue that fails leaves no half line', () =>
      withFaultHome({ archiver_workers: 0 }, async (home) => {
        await home.deliverSegments(1, 1);
        await home.archive();
        const before = await readFile(placesIn(home).catalogue, 'utf8');
        await home.deliverSegments(2, 3);
        for (const error of ['ENOSPC', 'EIO', 'EDQUOT']) {
          const { status, stderr } = await runWith(home, {
            options: {},
            syscall: 'write',
            error,
            at: ({ catalogue }) => catalogue,
          });
          expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringContaining(`the catalogue`) });
          expect(await readFile(placesIn(home).catalogue, 'utf8')).toBe(before);
          expect(await home.violations('crashed')).toEqual([]);
        }
        expect(await home.archive()).toMatchObject({ status: 0 });
        expect(await home.violations('healed')).toEqual([]);
      }));
  },
);

describe.concurrent('what can be done in another way is', () => {
  test('an inode whose fsync failed is not trusted again: the file is copied', () =>
    withFaultHome({ archiver_workers: 0 }, async (home) => {
      await home.deliverSegments(1, 3);
      const fault: Fault = { options: {}, syscall: 'fsync', error: 'EIO', at: ({ claim }) => claim };
      expect(await runWith(home, fault)).toMatchObject({ status: 0, stderr: '' });
      await expectInjected(home);
      expect(await home.violations('healed')).toEqual([]);
    }));

  test('a catalogue whose fsync failed is written anew', () =>
    withFaultHome({ archiver_workers: 0 }, async (home) => {
      await home.deliverSegments(1, 1);
      await home.archive();
      await home.deliverSegments(2, 3);
      const fault: Fault = { options: {}, syscall: 'fsync', error: 'EIO', at: ({ catalogue }) => catalogue };
      expect(await runWith(home, fault)).toMatchObject({ status: 0, stderr: '' });
      await expectInjected(home);
      expect(await home.violations('healed')).toEqual([]);
    }));

  test.each([
    ['EPERM', {}],
    ['EOPNOTSUPP', {}],
    ['EPERM', ZSTD],
  ] as const)('a file system without hard links (%s) gets renames, and that is told once: %o', (error, options) =>
    withFaultHome({ ...options, archiver_workers: 0 }, async (home) => {
      await home.deliverSegments(1, 20);
      const withoutLinks = (): ReturnType<typeof runTraced> =>
        runTraced({
          config: home.config,
          args: ['archive-wal', 'main'],
          syscalls: ['link'],
          inject: [`link:error=${error}`],
          output: join(home.home.home, 'trace'),
        });
      expect(await withoutLinks()).toMatchObject({ status: 0, stderr: '' });
      expect(await home.violations('healed')).toEqual([]);
      const log = await readFile(join(home.home.home, 'walwarden.log'), 'utf8');
      expect(log.split('has no hard links').length).toBe(2);
      // Duplicates and conflicts there.
      await home.deliverSegments(1, 2);
      expect(await withoutLinks()).toMatchObject({ status: 0, stdout: expect.stringContaining('2 archived before') });
      expect(await home.violations('healed')).toEqual([]);
    }),
  );
});

describe.concurrent('a source that fails is passed over, told, and archived later', () => {
  const faults: readonly Fault[] = [
    { options: ZSTD, syscall: 'openat', error: 'EACCES', at: ({ source }) => source },
    { options: ZSTD, syscall: 'openat', error: 'EIO', at: ({ source }) => source },
    { options: ZSTD, syscall: 'pread64', error: 'EIO', at: ({ source }) => source },
    { options: NONE, syscall: 'openat', error: 'EACCES', at: ({ source }) => source },
    { options: NONE, syscall: 'pread64', error: 'EIO', at: ({ claim }) => claim },
  ];
  test.each(faults.map((fault) => [label(fault), fault] as const))('%s', (_label, fault) =>
    withFaultHome({ ...fault.options, archiver_workers: 0 }, async (home) => {
      await home.deliverSegments(1, 3);
      const { status, stdout } = await runWith(home, fault);
      await expectInjected(home);
      expect(status).toBe(1);
      expect(stdout).toMatch(/: 2 files archived/);
      expect(stdout).toContain(`"${second}" NOT archived: ${fault.error}`);
      expect(await home.violations('crashed')).toEqual([]);
      expect(await home.archive()).toMatchObject({ status: 0 });
      expect(await home.violations('healed')).toEqual([]);
    }),
  );
});

test('an errors directory that fails keeps nobody waiting', () =>
  withFaultHome({ archiver_workers: 0 }, async (home) => {
    await home.deliverSegments(1, 1);
    await home.archive();
    await home.deliver(first, () => makeWal({ segment: 1, seed: 7 }).bytes);
    home.produced.set(first, () => makeWal({ segment: 1, content: 'zeros' }).bytes);
    await home.deliverSegments(2, 2);
    const { status, stdout } = await runTraced({
      config: home.config,
      args: ['archive-wal', 'main'],
      syscalls: ['link'],
      paths: [join(home.home.incoming, first)],
      inject: ['link:error=ENOSPC:when=2+'],
      output: join(home.home.home, 'trace'),
    });
    expect({ status, stdout }).toMatchObject({
      status: 1,
      stdout: expect.stringContaining("can't be moved to errors"),
    });
    expect(stdout).toMatch(/: 1 file archived/);
    expect(await home.archive()).toMatchObject({ status: 1 });
    expect(await home.violations('healed')).toEqual([expect.stringMatching(`^${first}.*\\.duplicate is in errors`)]);
  }));

function label({ options, syscall, error, at }: Fault): string {
  const names: Places = {
    source: 'the source',
    claim: 'the claim',
    final: 'the stored file',
    directory: 'its directory',
    catalogue: 'the catalogue',
    claims: 'the directory of claims',
  };
  return `${error} from ${syscall} on ${at(names)}, ${'compression' in options ? 'zstd' : 'no compression'}`;
}
