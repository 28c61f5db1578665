import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { messageOf } from '../src/errors.ts';
import { tempParent } from '../test/support/temp-dir.ts';
import { Narrator } from './narrator.ts';
import { tellStory } from './story.ts';
import { tellStreamingStory } from './streaming-story.ts';

const USAGE = `npm run demo -- [--streaming] [--keep]

Starts a PostgreSQL of its own in a temporary directory, archives its WAL,
crashes it, restores it to a second one, and removes everything. As root it
runs PostgreSQL as an ordinary user.

  --streaming   receive the WAL over replication instead of archive_command
  --keep        leave the directory, servers stopped, and say how to start them
`;

/** Where the clone is, seen from build/demo. */
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** What ends us early, with the exit status that a shell expects then. */
class Interruption extends Error {
  readonly status: number;

  constructor(signal: string, number: number) {
    super(`interrupted by ${signal}`);
    this.status = 128 + number;
  }
}

function watchForInterruption(): AbortSignal {
  const interrupted = new AbortController();
  const interrupt = (signal: string, number: number): void => {
    if (interrupted.signal.aborted) return;
    interrupted.abort(new Interruption(signal, number));
    if (signal !== 'SIGPIPE') process.stderr.write(`\n${signal}: cleaning up ...\n`);
  };
  process.on('SIGHUP', () => interrupt('SIGHUP', 1));
  process.on('SIGINT', () => interrupt('SIGINT', 2));
  process.on('SIGTERM', () => interrupt('SIGTERM', 15));
  // Nobody reads on, as in `npm run demo | head`.
  process.stdout.on('error', () => interrupt('SIGPIPE', 13));
  process.stderr.on('error', () => interrupt('SIGPIPE', 13));
  return interrupted.signal;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { keep: { type: 'boolean' }, streaming: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help === true) {
    process.stdout.write(USAGE);
    return 0;
  }
  const keep = values.keep === true;
  const interrupted = watchForInterruption();
  const directory = await mkdtemp(join(tempParent(), 'walwarden-demo-'));
  try {
    // PostgreSQL may run as another user, in a directory of its own below.
    await chmod(directory, 0o755);
    const tell = values.streaming === true ? tellStreamingStory : tellStory;
    await tell({ narrator: new Narrator(interrupted), directory, root: ROOT, keep });
    return 0;
  } catch (error) {
    const { reason }: { reason: unknown } = interrupted;
    // What fails after an interruption fails because of it: Ctrl-C reaches PostgreSQL as well.
    if (reason instanceof Interruption) return reason.status;
    process.stderr.write(`\nThe demo failed: ${messageOf(error)}\n`);
    return 1;
  } finally {
    if (keep) process.stderr.write(`\nKept: ${directory}\n`);
    // Retries: something that is being killed may still create a file.
    else await rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = 1;
}
