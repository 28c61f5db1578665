import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { acquireLock, hasOpen, lockOwner } from '../../src/durable/lock-file.ts';
import { isErrorCode } from '../../src/errors.ts';
import { evaluateWithDescriptors, withModuleProcess } from '../compression/module-process.ts';
import { until } from '../support/poll.ts';
import { descendantsOf, processesWithEnv } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';
import { buildModule } from './build-module.ts';

/** Barman's way, in its language: an exclusive flock(2), then the pid and a newline. */
const PYTHON_LOCK = `
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | (0 if 'wait' in sys.argv else fcntl.LOCK_NB))
except BlockingIOError:
    print('busy', flush=True)
    sys.exit(1)
os.ftruncate(fd, 0)
os.write(fd, b'%d\\n' % os.getpid())
print('locked', flush=True)
sys.stdin.read()
`;

const MARK = 'LOCK_FILE_TEST_MARK';

async function withPythonLock<T>(path: string, body: (owner: ChildProcess) => Promise<T>): Promise<T> {
  const owner = spawn('python3', ['-c', PYTHON_LOCK, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(owner, 'close');
  try {
    const [said] = await once(owner.stdout, 'data');
    expect(String(said)).toContain('locked');
    return await body(owner);
  } finally {
    owner.kill('SIGKILL');
    await ended;
  }
}

/** Somebody who only looks: has the lock until `body` lets go, and writes nothing into the file. */
async function withProbe<T>(path: string, body: (letGo: () => void) => Promise<T>): Promise<T> {
  const probe = spawn('flock', ['-x', path, 'sh', '-c', 'echo held; read -r line'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(probe, 'close');
  try {
    await once(probe.stdout, 'data');
    return await body(() => probe.stdin.end());
  } finally {
    probe.stdin.end();
    await ended;
  }
}

/** Waits until somebody of ours waits for the lock, beside the probe. */
async function untilAnotherWaits(): Promise<void> {
  await until('flock to wait', async () => {
    const below = await descendantsOf(process.pid);
    return below.filter(({ command }) => command === 'flock').length === 2;
  });
}

const pythonSays = async (path: string): Promise<string> =>
  (await run('python3', ['-c', PYTHON_LOCK, path], {})).stdout.trim();

test("a lock holds the owner's pid and a newline, and only the owner may read it", async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, '.main-xlogdb.lock');
    await writeFile(path, 'something longer than a pid\n', { mode: 0o600 });
    await using lock = await acquireLock(path);
    expect(lock.path).toBe(path);
    expect(await readFile(path, 'latin1')).toBe(`${process.pid}\n`);
  });
});

test('the file is created with mode 0600, whatever the umask, in a directory that is made, and stays', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'locks', '.main-cron.lock');
    const before = process.umask(0);
    try {
      await (await acquireLock(path))[Symbol.asyncDispose]();
    } finally {
      process.umask(before);
    }
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });
});

test('a wait that is aborted ends at once, and leaves the lock to its owner and nobody waiting', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    const owner = await acquireLock(path);
    const stop = new AbortController();
    const options = { wait: true, signal: stop.signal };
    const waiting = acquireLock(path, options).catch((reason: unknown) => reason);
    const waiters = async (): Promise<number> =>
      (await descendantsOf(process.pid)).filter(({ command }) => command === 'flock').length;
    await until('flock to wait', async () => (await waiters()) === 1);
    stop.abort();
    expect(await waiting).toMatchObject({ code: 'aborted', message: `stopped waiting for the lock ${path}` });
    expect(await waiters()).toBe(0);
    await expect(acquireLock(path, options)).rejects.toMatchObject({ code: 'aborted' });
    await owner[Symbol.asyncDispose]();
    await using _free = await acquireLock(path, { signal: new AbortController().signal });
  });
});

test('who comes second is told at once, with the pid of who has it', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    await using _lock = await acquireLock(path);
    const error: unknown = await acquireLock(path).catch((reason: unknown) => reason);
    expect(isErrorCode(error, 'locked')).toBe(true);
    expect(String(error)).toContain(`${path} is locked by process ${process.pid}`);
    expect(await readFile(path, 'latin1')).toBe(`${process.pid}\n`);
  });
});

test('whoever only looks is no owner: another who looks, and one who wants the lock, wait a moment', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    expect(await lockOwner(path)).toBeNull();
    // Its pid stays in the file; and we have that open ourselves when we look.
    await (await acquireLock(path))[Symbol.asyncDispose]();
    for (const ask of [
      // As long as it takes a busy machine to show us that it waits.
      () => lockOwner(path, 60_000),
      () => acquireLock(path, { waitMs: 60_000 }).then((lock) => lock[Symbol.asyncDispose]()),
    ]) {
      await withProbe(path, async (letGo) => {
        const answer = ask();
        await untilAnotherWaits();
        letGo();
        expect(await answer).not.toEqual(expect.any(Number));
      });
    }
  });
});

test('an owner is one, with its pid or without', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    await withPythonLock(path, async (owner) => {
      const pid = owner.pid ?? expect.unreachable();
      expect(await lockOwner(path)).toBe(pid);
      expect(await hasOpen(pid, path)).toBe(true);
      expect(await hasOpen(process.pid, path)).toBe(false);
      await expect(acquireLock(path, { waitMs: 600_000 })).rejects.toThrow(`${path} is locked by process ${pid}`);
    });
    {
      await using _lock = await acquireLock(path);
      expect(await lockOwner(path)).toBe(process.pid);
    }
    await writeFile(path, '');
    await withProbe(path, async () => expect(await lockOwner(path)).toBe(0));
    expect(await hasOpen(0, path)).toBe(false);
  });
});

test("our lock keeps Python's fcntl.flock out, and letting go lets it in", async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    {
      await using _lock = await acquireLock(path);
      expect(await pythonSays(path)).toBe('busy');
    }
    expect(await pythonSays(path)).toBe('locked');
  });
});

test("Python's fcntl.flock keeps us out, and its pid is told", async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    await withPythonLock(path, async (owner) => {
      await expect(acquireLock(path)).rejects.toThrow(`${path} is locked by process ${owner.pid}`);
    });
    await using _lock = await acquireLock(path);
  });
});

test('the lock of a crashed owner is free at once', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    await withPythonLock(path, async (owner) => {
      owner.kill('SIGKILL');
      await once(owner, 'exit');
      await using _lock = await acquireLock(path);
      expect(await readFile(path, 'latin1')).toBe(`${process.pid}\n`);
    });
  });
});

test('so is our own after SIGKILL', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    const module = await buildModule('src/durable/lock-file.ts', directory);
    const program = `
      const { acquireLock } = await import(${JSON.stringify(module)});
      await acquireLock(${JSON.stringify(path)});
      console.log('locked');
      setInterval(() => undefined, 1000);`;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const ended = once(owner, 'close');
    try {
      await once(owner.stdout, 'data');
      await expect(acquireLock(path)).rejects.toThrow(`is locked by process ${owner.pid}`);
    } finally {
      owner.kill('SIGKILL');
      await ended;
    }
    await using _lock = await acquireLock(path);
  });
});

test('a waiting lock is got when the owner lets go, by one after the other', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    let inside = 0;
    const seen: number[] = [];
    const enter = async (): Promise<void> => {
      await using _lock = await acquireLock(path, { wait: true });
      inside += 1;
      seen.push(inside);
      await new Promise((resolve) => setTimeout(resolve, 5));
      inside -= 1;
    };
    await withPythonLock(path, async (owner) => {
      const all = Promise.all(Array.from({ length: 8 }, enter));
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(seen).toEqual([]);
      owner.stdin?.end();
      await all;
    });
    expect(seen).toEqual(Array.from({ length: 8 }, () => 1));
  });
});

test('programs that we start do not inherit the lock', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    const lock = await acquireLock(path);
    const hook = spawn('sleep', ['60'], { stdio: 'ignore' });
    const ended = once(hook, 'close');
    await once(hook, 'spawn');
    try {
      await lock[Symbol.asyncDispose]();
      expect(await pythonSays(path)).toBe('locked');
    } finally {
      hook.kill('SIGKILL');
      await ended;
    }
  });
});

test('what is no lock file is an error that names path and option', async () => {
  await withTempDir(async (directory) => {
    const inTheWay = join(directory, 'lock');
    await mkdir(inTheWay);
    const error: unknown = await acquireLock(inTheWay).catch((reason: unknown) => reason);
    expect(isErrorCode(error, 'storage')).toBe(true);
    expect(error).toMatchObject({ hint: expect.stringContaining('barman_lock_directory') });
    expect(String(error)).toContain(inTheWay);
    const file = join(directory, 'file');
    await writeFile(file, '');
    await expect(acquireLock(join(file, 'lock'))).rejects.toThrow(/can't open the lock file .*ENOTDIR/);
  });
});

test('without the flock program the error says what to install', async () => {
  await withTempDir(async (directory) => {
    const path = process.env['PATH'];
    process.env['PATH'] = directory;
    try {
      const error: unknown = await acquireLock(join(directory, 'lock')).catch((reason: unknown) => reason);
      expect(isErrorCode(error, 'program')).toBe(true);
      expect(error).toMatchObject({ hint: 'install util-linux' });
      await chmod(directory, 0o700);
    } finally {
      process.env['PATH'] = path;
    }
  });
});

test('without descriptors flock is not started, which is an error and no crash', async () => {
  await withTempDir(async (directory) => {
    const module = await buildModule('src/durable/lock-file.ts', directory);
    const path = join(directory, 'lock');
    // One for the lock file itself.
    const error = await evaluateWithDescriptors(module, 1, `module.acquireLock(${JSON.stringify(path)})`);
    expect(error).toMatchObject({ code: 'program', message: expect.stringMatching(/can't run flock.*EMFILE/) });
    expect(error).toMatchObject({ hint: expect.stringContaining('LimitNOFILE') });
  });
});

const WAITING_OWNER = (path: string): string => `
  process.on('SIGINT', () => console.log('draining'));
  process.on('SIGTERM', () => process.exit(7));
  await module.acquireLock(${JSON.stringify(path)}, { wait: true });
  console.log('locked');`;

test("a terminal's Ctrl-C, which goes to our whole process group, does not end the wait for a lock", async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    const module = await buildModule('src/durable/lock-file.ts', directory);
    const mark = randomUUID();
    await withPythonLock(path, (owner) =>
      withModuleProcess(module, WAITING_OWNER(path), { [MARK]: mark }, async ({ pid, said, ended }) => {
        await until('flock to wait', async () => (await processesWithEnv(MARK, mark)).length === 2);
        process.kill(-pid, 'SIGINT');
        expect(await said).toBe('draining');
        owner.stdin?.end();
        expect(await ended).toEqual({ output: 'draining\nlocked\n', status: 0 });
      }),
    );
  });
});

test('a wait for a lock ends with us', async () => {
  await withTempDir(async (directory) => {
    const path = join(directory, 'lock');
    const module = await buildModule('src/durable/lock-file.ts', directory);
    const mark = randomUUID();
    await withPythonLock(path, () =>
      withModuleProcess(module, WAITING_OWNER(path), { [MARK]: mark }, async ({ pid, ended }) => {
        await until('flock to wait', async () => (await processesWithEnv(MARK, mark)).length === 2);
        process.kill(pid, 'SIGTERM');
        expect(await ended).toMatchObject({ status: 7 });
        await until('flock to go', async () => (await processesWithEnv(MARK, mark)).length === 0);
      }),
    );
  });
});
