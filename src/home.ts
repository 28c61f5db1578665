import { stat } from 'node:fs/promises';
import { errnoOf, messageOf, WalwardenError } from './errors.ts';

/** The error for root in a home that belongs to another user; null for anyone else, or when there is no home. */
export async function foreignHome(home: string): Promise<WalwardenError | null> {
  if (process.geteuid?.() !== 0) return null;
  try {
    const { uid } = await stat(home);
    if (uid === 0) return null;
    return new WalwardenError('config', `barman_home ${home} belongs to user ${uid}, and we run as root`, {
      hint: 'run walwarden as that user: what root makes there, it could neither change nor remove',
    });
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return null; // what needs it has a better error
  }
}

/** Throws `storage` without barman_home. Taking a lock makes its directory, and the home is never made: it may be a mount point without its file system. */
export async function checkHome(home: string): Promise<void> {
  const foreign = await foreignHome(home);
  if (foreign !== null) throw foreign;
  try {
    await stat(home);
  } catch (cause) {
    const missing = errnoOf(cause) === 'ENOENT';
    throw new WalwardenError(
      'storage',
      missing ? `barman_home ${home} does not exist` : `can't use barman_home ${home}: ${messageOf(cause)}`,
      { cause, hint: 'mount or create it, owned by the user that walwarden runs as' },
    );
  }
}
