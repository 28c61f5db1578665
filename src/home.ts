import { stat } from 'node:fs/promises';
import { errnoOf, messageOf, WalwardenError } from './errors.ts';

/** Throws `storage` without barman_home. Taking a lock makes its directory, and the home is never made: it may be a mount point without its file system. */
export async function checkHome(home: string): Promise<void> {
  try {
    const { uid } = await stat(home);
    if (uid !== 0 && process.geteuid?.() === 0) {
      throw new WalwardenError('config', `barman_home ${home} belongs to user ${uid}, and we run as root`, {
        hint: 'run walwarden as that user: what root makes there, it could neither change nor remove',
      });
    }
  } catch (cause) {
    if (cause instanceof WalwardenError) throw cause;
    const missing = errnoOf(cause) === 'ENOENT';
    throw new WalwardenError(
      'storage',
      missing ? `barman_home ${home} does not exist` : `can't use barman_home ${home}: ${messageOf(cause)}`,
      { cause, hint: 'mount or create it, owned by the user that walwarden runs as' },
    );
  }
}
