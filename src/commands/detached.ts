import { spawn, type StdioOptions } from 'node:child_process';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { WalwardenConfig } from '../config/config.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';

/**
 * Where our processes in the background log: `log_file`, and where that is
 * unset a file in the home. Their stderr can't be cron's: cron waits for its
 * pipe to be closed, and mails what it got.
 */
export function detachedLogFile(config: WalwardenConfig): string {
  return config.global.options.log_file ?? join(config.global.options.barman_home, 'walwarden.log');
}

/** How one of our own commands is started: as we were ourselves, the same node under the same name (a link `barman`, say). */
export function ownProgram(config: WalwardenConfig): readonly [program: string, ...args: string[]] {
  const [node, script] = process.argv;
  if (node === undefined || script === undefined) throw new Error('no program to start');
  return [process.execPath, ...process.execArgv, script, '-c', config.file, '-q'];
}

export interface DetachedOptions {
  /** A descriptor for what they say beside the log, such as Node's last words; null for nowhere. */
  readonly stderr: number | null;
  /** Our own stdout and stderr instead, and the log as in the foreground. */
  readonly keepDescriptors: boolean;
}

/** Waits for the end of its stdin, and becomes the program, with the same pid. */
const GATE = 'read -r _; exec "$@" </dev/null';

/**
 * Starts commands of ours as processes in the background. They begin their work
 * when we end, whatever the way: while a hundred of them load, nobody else gets
 * the processor, and cron must not be kept waiting.
 */
export class DetachedCommands {
  readonly #program: readonly [string, ...string[]];
  readonly #stdio: StdioOptions;

  constructor(config: WalwardenConfig, { stderr, keepDescriptors }: DetachedOptions) {
    this.#program = ownProgram(config);
    if (!keepDescriptors) this.#program = [...this.#program, '--detached'];
    this.#stdio = keepDescriptors ? ['pipe', 'inherit', 'inherit'] : ['pipe', 'ignore', stderr ?? 'ignore'];
  }

  /**
   * A process in a session of its own, so that it survives us and the terminal;
   * resolves to its pid. Throws `program` when the system doesn't allow one more.
   */
  start(args: readonly string[]): Promise<number> {
    return new Promise((resolve, reject) => {
      const child = spawn('/bin/sh', ['-c', GATE, 'sh', ...this.#program, ...args], {
        stdio: this.#stdio,
        detached: true,
      });
      child.once('error', (cause) => reject(startError(args, cause)));
      child.once('spawn', () => {
        child.unref();
        // Kept open, but no reason for us to stay; nor is it ours when it dies.
        if (child.stdin instanceof Socket) child.stdin.on('error', () => {}).unref();
        resolve(child.pid ?? 0);
      });
    });
  }
}

function startError(args: readonly string[], cause: Error): WalwardenError {
  const outOfFiles = errnoOf(cause) === 'EMFILE' || errnoOf(cause) === 'ENFILE';
  return new WalwardenError('program', `can't start ${args.join(' ')}: ${messageOf(cause)}`, {
    cause,
    hint: outOfFiles
      ? 'allow more open files (ulimit -n; systemd: LimitNOFILE)'
      : 'allow more processes (ulimit -u; systemd: TasksMax)',
  });
}
