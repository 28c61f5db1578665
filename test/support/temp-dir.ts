import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Names of this process's temporary directories begin with it, so that the leak check can tell them from others'. */
export function tempPrefix(): string {
  return `walwarden-test-${process.pid}-`;
}

// A unix socket's path has at most 107 bytes, and PostgreSQL puts its socket below.
const parent = tmpdir().length < 50 ? tmpdir() : '/tmp';

/** Where temporary directories are made: the system's, or /tmp where that path is too long for a socket. */
export function tempParent(): string {
  return parent;
}

/**
 * Gives a new directory to `body` and removes it afterwards, whatever happens.
 * Others may traverse it (0755): a server that runs as another user works below it.
 */
export async function withTempDir<T>(body: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(parent, tempPrefix()));
  try {
    await chmod(directory, 0o755);
    return await body(directory);
  } finally {
    // Retries: something that is being killed may still create a file.
    await rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }
}

/** The directories of one server, in Barman's default layout. */
export interface TestHome {
  /** barman_home */
  readonly home: string;
  readonly server: string;
  readonly incoming: string;
  readonly streaming: string;
  readonly wals: string;
  readonly errors: string;
}

/** A barman_home with the directories of one server, all of them there and empty. */
export async function withHome<T>(body: (home: TestHome) => Promise<T>, server = 'main'): Promise<T> {
  return withTempDir(async (home) => {
    const at = (name: string): string => join(home, server, name);
    const layout = {
      home,
      server,
      incoming: at('incoming'),
      streaming: at('streaming'),
      wals: at('wals'),
      errors: at('errors'),
    };
    for (const directory of [layout.incoming, layout.streaming, layout.wals, layout.errors]) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
    }
    return body(layout);
  });
}

/** Only the incoming directory of a {@link withHome}. */
export async function withIncoming<T>(body: (directory: string, home: TestHome) => Promise<T>): Promise<T> {
  return withHome((home) => body(home.incoming, home));
}
