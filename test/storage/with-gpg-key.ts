import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';

export interface GpgKey {
  readonly keyId: string;
  /** A keyring with the whole key, which has no passphrase. */
  readonly homedir: string;
  /** A keyring that can only encrypt. */
  readonly publicHome: string;
}

/** A throw-away key of real gpg. */
export async function withGpgKey<T>(body: (key: GpgKey) => Promise<T>): Promise<T> {
  return withTempDir(async (directory) => {
    const keyId = 'contract@walwarden.test';
    const homes = { homedir: join(directory, 'secret'), publicHome: join(directory, 'public') };
    for (const home of Object.values(homes)) await mkdir(home, { mode: 0o700 });
    const gpg = async (home: string, args: readonly string[], input: Uint8Array | string = ''): Promise<Buffer> => {
      const { status, stderr, bytes } = await run('gpg', ['--homedir', home, '--batch', '-q', ...args], { input });
      if (status !== 0) throw new Error(`gpg ${args.join(' ')}: ${status}: ${stderr}`);
      return bytes;
    };
    try {
      const empty = ['--pinentry-mode', 'loopback', '--passphrase', ''];
      await gpg(homes.homedir, [...empty, '--quick-gen-key', keyId, 'rsa2048', 'encr']);
      await gpg(homes.publicHome, ['--import'], await gpg(homes.homedir, ['--export', keyId]));
      return await body({ keyId, ...homes });
    } finally {
      for (const home of Object.values(homes)) await run('gpgconf', ['--homedir', home, '--kill', 'all'], {});
    }
  });
}

/** A key for all tests of a file, made before the first; call it outside of any test. */
export function useGpgKey(): () => GpgKey {
  let key: GpgKey | undefined;
  let release: () => void = () => undefined;
  let cleanedUp: Promise<void> = Promise.resolve();
  beforeAll(async () => {
    await new Promise<void>((resolve, reject) => {
      cleanedUp = withGpgKey(async (made) => {
        key = made;
        await new Promise<void>((done) => {
          release = done;
          resolve();
        });
      });
      cleanedUp.catch(reject);
    });
  });
  afterAll(async () => {
    release();
    await cleanedUp;
  });
  return () => {
    if (key === undefined) throw new Error('there is no gpg key: it is made before the first test');
    return key;
  };
}
