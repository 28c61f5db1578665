import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { delimiter, join } from 'node:path';
import { run, type RunOptions, type RunResult } from '../support/run.ts';

/** A real Barman, to stand beside walwarden on one home. */
export interface Barman {
  /** What it is called in test names. */
  readonly label: string;
  /** `barman -c CONFIG ARGS`. */
  run(config: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** A Python program that may import barman. */
  python(program: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Runs `body` while Barman's own class (of barman.lockfile) holds the lock. */
  withLock<T>(className: string, directory: string, server: string, body: () => Promise<T>): Promise<T>;
  /** Its other programs, such as `barman-wal-archive`: module of barman.clients. */
  client(module: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
}

// Debian's own, which has its barman; another Python that goes first in PATH has not.
const PYTHON = '/usr/bin/python3';

/** Debian's Barman 3.4. Fails, naming the packages, where it is not installed. */
export function debianBarman(): Barman {
  const missing = ['/usr/bin/barman', '/usr/bin/barman-wal-archive', '/usr/bin/barman-wal-restore'].filter(
    (path) => !existsSync(path),
  );
  if (missing.length > 0) {
    throw new Error(`${missing.join(', ')} not found: apt-get install barman barman-cli`);
  }
  return barmanOf('Debian’s Barman', {});
}

/** A checkout of Barman 3.17 (or a later one) that BARMAN_CHECKOUT names; undefined where it is unset. */
export function checkedOutBarman(): Barman | undefined {
  const checkout = process.env['BARMAN_CHECKOUT'];
  if (checkout === undefined || checkout === '') return undefined;
  if (!existsSync(join(checkout, 'barman', 'cli.py'))) {
    throw new Error(`BARMAN_CHECKOUT = ${checkout} is no checkout of Barman: there is no barman/cli.py`);
  }
  const path = [checkout, process.env['PYTHONPATH'] ?? ''].filter((part) => part !== '').join(delimiter);
  return barmanOf('the Barman of BARMAN_CHECKOUT', { PYTHONPATH: path });
}

/**
 * Debian 12's python3-snappy raises SystemError in its one C function for
 * CRC-32C (built without PY_SSIZE_T_CLEAN): that function alone is replaced.
 */
const SNAPPY_OF_DEBIAN = `
try:
    import snappy.snappy
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82f63b78 if n & 1 else 0)
        table.append(n)
    def crc32c(data):
        crc = 0xffffffff
        for byte in data:
            crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff]
        return crc ^ 0xffffffff
    snappy.snappy._crc32c = crc32c
except ImportError:
    pass
`;

function barmanOf(label: string, env: NodeJS.ProcessEnv): Barman {
  const python: Barman['python'] = (program, args, options = {}) =>
    run(PYTHON, ['-c', `${SNAPPY_OF_DEBIAN}${program}`, ...args], {
      ...options,
      env: { ...process.env, ...options.env, ...env },
    });
  return {
    label,
    python,
    withLock: async (className, directory, server, body) => {
      const holder = spawn(PYTHON, ['-c', HOLD_LOCK, className, directory, server], {
        stdio: ['pipe', 'pipe', 'inherit'],
        env: { ...process.env, ...env },
      });
      const ended = once(holder, 'close');
      try {
        const [said] = await Promise.race([once(holder.stdout, 'data'), ended.then(() => ['it ended'])]);
        if (!String(said).startsWith('locked')) throw new Error(`Barman did not get ${className}: ${String(said)}`);
        return await body();
      } finally {
        holder.stdin.end();
        await ended;
      }
    },
    run: (config, args, options) => python('from barman.cli import main; main()', ['-c', config, ...args], options),
    client: (module, args, options) => python(`from barman.clients.${module} import main; main()`, args, options),
  };
}

/** What Barman wants in a configuration beside our own options, for a server that it never connects to. */
export const BARMAN_GLOBAL = { barman_user: userInfo().username, log_file: '%(barman_home)s/barman.log' } as const;
export const BARMAN_SERVER = {
  backup_method: 'postgres',
  conninfo: 'host=nowhere.invalid',
  streaming_conninfo: 'host=nowhere.invalid',
} as const;

/** The catalogue as Barman itself reads it. Arguments: configuration, server. */
export const READ_CATALOGUE = `
import json, sys
import barman
from barman.config import Config
from barman.infofile import WalFileInfo
from barman.server import Server
barman.__config__ = config = Config(sys.argv[1])
server = Server(config.get_server(sys.argv[2]))
with server.xlogdb() as lines:
    print(json.dumps([[wal.name, wal.size, wal.time, wal.compression] for wal in map(WalFileInfo.from_xlogdb_line, lines)]))
`;

/** Takes a lock of Barman's by Barman's own class, says so, and keeps it until stdin ends. Arguments: class, directory, server. */
const HOLD_LOCK = `
import sys
from barman import lockfile
with getattr(lockfile, sys.argv[1])(sys.argv[2], sys.argv[3]):
    print('locked', flush=True)
    sys.stdin.read()
`;
