import { PostgresError } from '../postgres/failure.ts';
import { formatLsn } from '../wal/lsn.ts';
import type { StartQuestion } from './next-start.ts';
import type { BlockedWhy } from './start-decision.ts';
import type { StreamingStart } from './streaming-directory.ts';

/** What is said where receiving can't go on by itself, and what leads out of it. */
export function blockedStart({ settings, slot }: StartQuestion, start: StreamingStart, why: BlockedWhy): PostgresError {
  const { server } = settings;
  const reset = `walwarden receive-wal --reset ${server}`;
  const name = `replication slot "${slot?.name ?? ''}"`;
  const removed = `WAL of ${server} was received up to ${formatLsn(start.lsn)} of timeline ${start.timeline}, and the server has removed what comes next`;
  const backup = `walwarden list-wals --gaps ${server} tells what is missing in the archive, and a new base backup is needed where something is`;
  const blocked = (message: string, hint: string): PostgresError =>
    new PostgresError('wal-removed', `${removed}: ${message}`, { hint });
  switch (why.cause) {
    case 'unknown-slot':
      return blocked(
        `where ${name} is can't be found out`,
        `set conninfo of [${server}] to the server that the slot is on, or ${reset}; ${backup}`,
      );
    case 'empty-slot':
      return blocked(`${name} has reserved no WAL yet`, `${reset} has it reserve WAL, and goes on there; ${backup}`);
    case 'not-archived': {
      const from =
        why.from === start.lsn ? 'none of it is archived' : `it is archived up to ${formatLsn(why.from)} only`;
      const to = why.to === null ? '' : `, and ${name} stands at ${formatLsn(why.to)}`;
      return blocked(
        `${from}${to}`,
        `should archive_command still deliver it, receiving goes on by itself; otherwise ${reset} goes on behind the gap; ${backup}`,
      );
    }
    case 'not-usable':
      return blocked(
        why.problem,
        `find out which WAL is right; ${reset} moves what was received to errors, and goes on where the server still has WAL; ${backup}`,
      );
  }
}
