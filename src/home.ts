import { access } from 'node:fs/promises';
import { errnoOf, messageOf, WalwardenError } from './errors.ts';

/** Throws `storage` without barman_home. Taking a lock makes its directory, and the home is never made: it may be a mount point without its file system. */
export async function checkHome(home: string): Promise<void> {
  try {
    await access(home);
  } catch (cause) {
    const missing = errnoOf(cause) === 'ENOENT';
    throw new WalwardenError(
      'storage',
      missing ? `barman_home ${home} does not exist` : `can't use barman_home ${home}: ${messageOf(cause)}`,
      { cause, hint: 'mount or create it, owned by the user that walwarden runs as' },
    );
  }
}
