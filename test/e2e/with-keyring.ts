import { join } from 'node:path';
import { expect } from 'vitest';
import type { TestPostgres } from '../support/postgres.ts';
import { run } from '../support/run.ts';

export const PASSPHRASE = 'correct horse battery staple';
export const KEY = 'wal-archive@example.com';

/** A keyring of the server's user, with a secret key that wants {@link PASSPHRASE}. No gpg-agent survives it, or remembers. */
export async function withKeyring<T>(pg: TestPostgres, body: (homedir: string) => Promise<T>): Promise<T> {
  const homedir = await pg.makeDirectory(join(pg.directory, 'gnupg'));
  const endAgent = (): Promise<unknown> => run('gpgconf', ['--homedir', homedir, '--kill', 'all'], pg.owner);
  try {
    const asking = ['--pinentry-mode', 'loopback', '--passphrase', PASSPHRASE];
    const made = await run(
      'gpg',
      ['--homedir', homedir, '--batch', ...asking, '--quick-generate-key', KEY, 'future-default', 'default', 'never'],
      pg.owner,
    );
    expect(made.status, made.stderr).toBe(0);
    await endAgent();
    return await body(homedir);
  } finally {
    await endAgent();
  }
}
