import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { createCompressor, decompress, recogniseCompression } from '../../src/compression/codecs.ts';
import { pipeThrough, pipeThroughShell, runFilter } from '../../src/compression/external-program.ts';
import { isThere } from '../../src/durable/durable-file.ts';
import { buildModule } from '../durable/build-module.ts';
import { until } from '../support/poll.ts';
import { processesWithEnv } from '../support/processes.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { evaluateWithDescriptors, withModuleProcess } from './module-process.ts';

const MIB = 1024 * 1024;
const NOTHING = new Uint8Array();
const PATH = process.env['PATH'];

afterEach(() => {
  process.env['PATH'] = PATH;
});

/** True while a process of this id exists and is no zombie. */
async function isAlive(pid: number): Promise<boolean> {
  try {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8');
    return !/\) Z /.test(status);
  } catch {
    return false;
  }
}

describe('pipeThrough', () => {
  it('gives all bytes to stdin and returns all of stdout', async () => {
    const data = Buffer.alloc(20 * MIB, 'wal segment ');
    expect((await pipeThrough('cat', [], data, { maxOutput: data.length })).equals(data)).toBe(true);
  });

  it('passes extra input on descriptor 3', async () => {
    const extraInput = Buffer.from('secret');
    const output = await pipeThroughShell('cat <&3; cat', Buffer.from(' word'), { maxOutput: 100, extraInput });
    expect(output.toString()).toBe('secret word');
  });

  it('is content with a program that ends before it reads everything', async () => {
    const output = await pipeThrough('head', ['-c', '3'], Buffer.alloc(8 * MIB, 'abc'), { maxOutput: 10 });
    expect(output.toString()).toBe('abc');
    expect((await pipeThrough('true', [], Buffer.alloc(8 * MIB), { maxOutput: 10 })).length).toBe(0);
  });

  it('names the exit status and the first message of a program that fails', async () => {
    const failing = pipeThroughShell('echo "filter: no such level" >&2; exit 3', NOTHING, { maxOutput: 10 });
    await expect(failing).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(/exit status 3: no such level$/),
    });
    const killed = pipeThroughShell('kill -9 $$', NOTHING, { maxOutput: 10 });
    await expect(killed).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(/killed by SIGKILL/),
    });
  });

  it('says that a program is missing and which Debian package has it', async () => {
    process.env['PATH'] = '/nonexistent';
    const missing = pipeThrough('xz', [], NOTHING, { maxOutput: 10 });
    await expect(missing).rejects.toMatchObject({
      code: 'program',
      message: 'the program xz is not found in PATH',
      hint: 'install it (Debian: apt-get install xz-utils)',
    });
  });

  it('says why a program that is there can not be started', async () => {
    await withTempDir(async (directory) => {
      await writeFile(join(directory, 'pigz'), 'no program', { mode: 0o644 });
      await chmod(join(directory, 'pigz'), 0o644);
      const program = join(directory, 'pigz');
      await expect(pipeThrough(program, [], NOTHING, { maxOutput: 1 })).rejects.toMatchObject({
        code: 'program',
        message: expect.stringMatching(/can't be started: .*EACCES/),
      });
    });
  });

  it('kills a program that gives more than it may, and everything that it started', async () => {
    await withTempDir(async (directory) => {
      const pidFile = join(directory, 'pid');
      const end = await runFilter({ shell: `sh -c 'echo $$ > ${pidFile}; exec yes' | cat` }, NOTHING, {
        maxOutput: 1000,
      });
      expect(end).toMatchObject({ tooMuch: true, killedBy: 'SIGKILL' });
      expect(end.output.length).toBe(1000);
      const pid = Number(await readFile(pidFile, 'utf8'));
      await until('the grandchild to go', async () => !(await isAlive(pid)), 5000);
    });
  });

  it('ends a hanging filter, grandchildren included, when it is aborted', async () => {
    await withTempDir(async (directory) => {
      const pidFile = join(directory, 'pid');
      const abort = new AbortController();
      const filter = pipeThroughShell(`(echo $BASHPID; exec sleep 1000) & echo $! > ${pidFile}; wait`, NOTHING, {
        maxOutput: 1000,
        signal: abort.signal,
      });
      const ended = expect(filter).rejects.toMatchObject({ code: 'aborted' });
      await until(
        'the filter to run',
        async () => (await readFile(pidFile, 'utf8').catch(() => '')).endsWith('\n'),
        5000,
      );
      abort.abort();
      await ended;
      const pid = Number(await readFile(pidFile, 'utf8'));
      await until('the grandchild to go', async () => !(await isAlive(pid)), 5000);
    });
    await expect(pipeThrough('cat', [], NOTHING, { maxOutput: 1, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'aborted',
    });
  });
});

describe('a program and our own process', () => {
  const SOURCE = 'src/compression/external-program.ts';
  const MARK = 'EXTERNAL_PROGRAM_TEST_MARK';

  it.each([
    ['without descriptors', 0],
    ['with too few for its pipes', 4],
  ])('%s a program is not started, which is an error and no crash', async (_case, free) => {
    await withTempDir(async (directory) => {
      const module = await buildModule(SOURCE, directory);
      const run = `module.pipeThrough('cat', [], Buffer.from('x'), { maxOutput: 9, extraInput: Buffer.from('y') })`;
      expect(await evaluateWithDescriptors(module, free, run)).toMatchObject({
        code: 'program',
        message: expect.stringMatching(/^cat can't be started: .*EMFILE/),
        hint: expect.stringContaining('LimitNOFILE'),
      });
      const byFile = `module.filterFile({ program: 'cat', args: [] }, taken[0], taken[1], process.env)`;
      expect(await evaluateWithDescriptors(module, 0, byFile)).toMatchObject({
        code: 'program',
        message: expect.stringMatching(/^cat can't be started: .*EMFILE/),
      });
    });
  });

  it("finishes in spite of a terminal's Ctrl-C, which goes to our whole process group", async () => {
    await withTempDir(async (directory) => {
      const module = await buildModule(SOURCE, directory);
      const code = `
        process.on('SIGINT', () => console.log('draining'));
        const script = 'touch ${directory}/up; while test ! -e ${directory}/go; do sleep 0.02; done; cat';
        const output = await module.pipeThrough('sh', ['-c', script], Buffer.from('done'), { maxOutput: 9 });
        console.log(output.toString());`;
      await withModuleProcess(module, code, {}, async ({ pid, said, ended }) => {
        await until('the program to run', () => isThere(join(directory, 'up')));
        process.kill(-pid, 'SIGINT');
        expect(await said).toBe('draining');
        await writeFile(join(directory, 'go'), '');
        expect(await ended).toEqual({ output: 'draining\ndone\n', status: 0 });
      });
    });
  });

  it('is killed with all that it started', async () => {
    const mark = randomUUID();
    const abort = new AbortController();
    const running = runFilter({ program: 'sh', args: ['-c', 'sleep 60 | sleep 60'] }, NOTHING, {
      maxOutput: 1,
      env: { ...process.env, [MARK]: mark },
      signal: abort.signal,
    });
    const ended = expect(running).rejects.toMatchObject({ code: 'aborted' });
    await until('the program to run', async () => (await processesWithEnv(MARK, mark)).length === 3);
    abort.abort();
    await ended;
    await until('all of it to go', async () => (await processesWithEnv(MARK, mark)).length === 0, 5000);
  });

  it('does not outlive us', async () => {
    await withTempDir(async (directory) => {
      const module = await buildModule(SOURCE, directory);
      const mark = randomUUID();
      const code = `
        const options = { maxOutput: 1 };
        void module.pipeThrough('sleep', ['60'], new Uint8Array(), options);
        void module.pipeThroughShell('sleep 60 | sleep 60', new Uint8Array(), options);
        void module.filterFile({ program: 'sleep', args: ['60'] }, 0, 0, process.env);
        process.on('SIGTERM', () => process.exit(7));
        console.log('up');`;
      await withModuleProcess(module, code, { [MARK]: mark }, async ({ pid, ended }) => {
        const count = async (): Promise<number> => (await processesWithEnv(MARK, mark)).length;
        await until('all programs to run', async () => (await count()) === 6);
        process.kill(pid, 'SIGTERM');
        expect(await ended).toMatchObject({ status: 7 });
        await until('all programs to go', async () => (await count()) === 0, 5000);
      });
    });
  });
});

describe('codecs that use a program', () => {
  it.each(['bzip2', 'xz', 'pigz', 'lz4'] as const)('%s says clearly that it is missing', async (name) => {
    process.env['PATH'] = '/nonexistent';
    const expected = { code: 'program', message: `the program ${name} is not found in PATH` };
    await expect(createCompressor({ compression: name }).compress(Buffer.from('x'))).rejects.toMatchObject(expected);
    if (name === 'bzip2') {
      await expect(decompress(Buffer.from('BZh9xxxx'), name, { maxSize: 1 })).rejects.toMatchObject(expected);
    }
  });

  it('need no program for what a library does', async () => {
    process.env['PATH'] = '/nonexistent';
    for (const compression of ['gzip', 'zstd', 'lz4', 'snappy'] as const) {
      const compressed = await createCompressor({ compression, level: 'low' }).compress(Buffer.from('content'));
      expect((await decompress(compressed, compression, { maxSize: 7 })).toString()).toBe('content');
    }
    const gzip = await createCompressor({ compression: 'gzip' }).compress(Buffer.from('content'));
    expect((await decompress(gzip, 'pigz', { maxSize: 7 })).toString()).toBe('content');
  });

  it('take no options from the environment', async () => {
    const data = Buffer.alloc(100_000, 'some content ');
    const plain = await createCompressor({ compression: 'xz', level: 6 }).compress(data);
    process.env['XZ_OPT'] = '--check=none -0';
    try {
      expect((await createCompressor({ compression: 'xz', level: 6 }).compress(data)).equals(plain)).toBe(true);
    } finally {
      delete process.env['XZ_OPT'];
    }
  });

  it('call a program that breaks a fault of the program, not of the data', async () => {
    await withTempDir(async (directory) => {
      await mkdir(join(directory, 'bin'));
      await writeFile(join(directory, 'bin/xz'), '#!/bin/sh\necho "xz: (stdin): Cannot allocate memory" >&2\nexit 1\n');
      await writeFile(join(directory, 'bin/bzip2'), '#!/bin/sh\nkill -9 $$\n');
      for (const name of ['xz', 'bzip2']) await chmod(join(directory, 'bin', name), 0o755);
      process.env['PATH'] = `${join(directory, 'bin')}:${PATH}`;
      const xz = decompress(Buffer.from('fd377a585a0000', 'hex'), 'xz', { maxSize: 1 });
      await expect(xz).rejects.toMatchObject({
        code: 'program',
        message: expect.stringMatching(/xz ended with exit status 1: Cannot allocate/),
      });
      const bzip2 = decompress(Buffer.from('BZh9'), 'bzip2', { maxSize: 1 });
      await expect(bzip2).rejects.toMatchObject({
        code: 'program',
        message: expect.stringMatching(/bzip2 was killed by SIGKILL/),
      });
    });
  });
});

describe('custom', () => {
  const custom = { compress: 'base64 | tee', decompress: 'base64 -d', magic: Buffer.from('d2FsIH') };
  const wal = Buffer.from('wal '.repeat(10_000));

  it('runs the filters of the user through the shell', async () => {
    const compressor = createCompressor({ compression: 'custom', level: 5, custom });
    expect(compressor).toMatchObject({ name: 'custom', extension: null, inMemory: false });
    const compressed = await compressor.compress(wal);
    expect(recogniseCompression(compressed, custom.magic)).toBe('custom');
    expect(recogniseCompression(compressed)).toBeNull();
    expect((await decompress(compressed, 'custom', { maxSize: wal.length, custom })).equals(wal)).toBe(true);
  });

  it('goes before a known format with the same magic number', () => {
    const gzip = Buffer.from('1f8b0800', 'hex');
    expect(recogniseCompression(gzip, gzip.subarray(0, 2))).toBe('custom');
    expect(recogniseCompression(gzip, Buffer.alloc(0))).toBe('gzip');
    expect(recogniseCompression(gzip.subarray(0, 1), gzip.subarray(0, 2))).toBeNull();
  });

  it('needs its filters', async () => {
    expect(() => createCompressor({ compression: 'custom' })).toThrow(/custom_compression_filter/);
    await expect(decompress(wal, 'custom', { maxSize: 1, custom: { compress: 'cat' } })).rejects.toMatchObject({
      code: 'config',
      message: 'custom compression needs custom_decompression_filter',
    });
  });

  it.each([
    ['a filter that fails on the data', 'echo "bad input" >&2; exit 1', 'damaged', /bad input/],
    ['a filter that gives too much', 'yes', 'damaged', /more than the 40000 bytes/],
    ['a filter that is not there', 'no-such-filter', 'program', /exit status 127/],
  ])('tells %s', async (_case, filter, code, message) => {
    const reading = decompress(wal, 'custom', { maxSize: 40_000, custom: { decompress: filter } });
    await expect(reading).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('calls a compression filter that fails a fault of the program', async () => {
    const compressor = createCompressor({ compression: 'custom', custom: { compress: 'cat > /dev/null; exit 2' } });
    await expect(compressor.compress(wal)).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(/exit status 2/),
    });
  });
});
