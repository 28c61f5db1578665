import { spawn } from 'node:child_process';

/** Waits for the end of its stdin, which our end is; when that doesn't come in time, it kills us. */
const WATCH = 'timeout "$0" cat >/dev/null; [ $? = 124 ] && kill -9 "$1"';

/**
 * To be called before the process is to end: it is killed when it does not.
 * A system call that never returns (a file system whose server is gone) keeps a
 * thread, and with that thread the process, though it calls exit.
 */
export function endSurely(seconds: number): void {
  try {
    const watch = spawn('sh', ['-c', WATCH, String(seconds), String(process.pid)], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    // Without it we may have to be killed by somebody else.
    watch.on('error', () => {});
    watch.stdin.on('error', () => {});
    watch.unref();
  } catch {
    // No descriptors or processes are left.
  }
}
