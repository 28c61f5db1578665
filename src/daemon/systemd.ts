import { spawn, type ChildProcess } from 'node:child_process';
import { errnoOf, messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';

/** What systemd is told of a service of Type=notify; nothing where it did not start us. Never rejects. */
export interface ServiceManager {
  ready(status: string): Promise<void>;
  /** {@link ready} tells the end of it. */
  reloading(): Promise<void>;
  stopping(): Promise<void>;
  /** One line for `systemctl status`. */
  status(text: string): Promise<void>;
  /** Ends the watchdog's heartbeat. */
  close(): Promise<void>;
}

/** systemd answers at once, or is in trouble itself. */
const PATIENCE_MS = 5_000;

const NOBODY: ServiceManager = {
  ready: async () => {},
  reloading: async () => {},
  stopping: async () => {},
  status: async () => {},
  close: async () => {},
};

/**
 * The service manager that started this process (sd_notify(3)), as the environment says. Its variables are taken out
 * of `env`: with NotifyAccess=all, a hook script that inherits them could speak for us.
 */
export function connectServiceManager(logger: Logger, env: NodeJS.ProcessEnv = process.env): ServiceManager {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: interval, WATCHDOG_PID: watched } = env;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
  if (socket === undefined || socket === '') return NOBODY;
  const notifier = new Notifier(socket, env, logger);
  const mine = watched === undefined || watched === String(process.pid);
  const beatMs = mine && /^[1-9]\d*$/.test(interval ?? '') ? Math.max(1, Number(interval) / 2_000) : null;
  const heartbeat = beatMs === null ? undefined : setInterval(() => void notifier.beat(), beatMs).unref();
  return {
    ready: (status) => notifier.send('READY=1', statusLine(status)),
    // Type=notify-reload wants to know when it began, on the clock that hrtime is.
    reloading: () => notifier.send('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`),
    stopping: () => notifier.send('STOPPING=1'),
    status: (text) => notifier.send(statusLine(text)),
    async close() {
      clearInterval(heartbeat);
      await notifier.idle();
    },
  };
}

function statusLine(text: string): string {
  return `STATUS=${text.replaceAll(/\s+/g, ' ')}`;
}

/** Node has no datagram sockets of the unix family: the program of the package systemd sends for us. */
class Notifier {
  readonly #env: NodeJS.ProcessEnv;
  readonly #logger: Logger;
  /** One after the other, so that they arrive in their order. */
  #turn: Promise<void> = Promise.resolve();
  #beating = false;
  #told = false;

  constructor(socket: string, env: NodeJS.ProcessEnv, logger: Logger) {
    this.#env = { ...env, NOTIFY_SOCKET: socket };
    this.#logger = logger;
  }

  send(...assignments: readonly string[]): Promise<void> {
    this.#turn = this.#turn.then(() => this.#run(assignments));
    return this.#turn;
  }

  /** At most one waits. */
  async beat(): Promise<void> {
    if (this.#beating) return;
    this.#beating = true;
    await this.send('WATCHDOG=1');
    this.#beating = false;
  }

  idle(): Promise<void> {
    return this.#turn;
  }

  /** Never rejects: a daemon that archives and can't say so is better than one that doesn't. */
  async #run(assignments: readonly string[]): Promise<void> {
    const trouble = await runNotify(assignments, this.#env);
    if (trouble === null || this.#told) return;
    this.#told = true;
    this.#logger.warn(`systemd can't be told how we are: ${trouble}; with Type=notify it may end this service`);
  }
}

/** Why it failed; null when it didn't. It ends once systemd has taken the message: one of a process that is gone is lost. */
function runNotify(assignments: readonly string[], env: NodeJS.ProcessEnv): Promise<string | null> {
  return new Promise((resolve) => {
    let child: ChildProcess;
    try {
      child = spawn('systemd-notify', assignments, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    } catch (error) {
      return resolve(messageOf(error));
    }
    let said = '';
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, PATIENCE_MS);
    const end = (trouble: string | null): void => {
      clearTimeout(timer);
      resolve(trouble);
    };
    // First of all: nobody may be left to hear it, and without descriptors there are no streams.
    child.once('error', (error) => {
      const missing = errnoOf(error) === 'ENOENT';
      end(missing ? 'the program systemd-notify is not in PATH; install package systemd' : messageOf(error));
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text));
    child.once('close', (status, signal) => {
      if (status === 0) return end(null);
      const how = late ? `gave no answer within ${PATIENCE_MS / 1000} s` : `ended with ${signal ?? `status ${status}`}`;
      end(`systemd-notify ${how}${said === '' ? '' : `: ${said.trim()}`}`);
    });
  });
}
