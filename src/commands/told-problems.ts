import { readFile, rename, writeFile } from 'node:fs/promises';
import { unlinkIfThere } from '../durable/durable-file.ts';
import { errnoOf, messageOf } from '../errors.ts';
import type { Logger } from '../logging.ts';

export interface Problem {
  /** What has it: the name of a server, or of an option. */
  readonly about: string;
  readonly message: string;
}

/** What was told, by what it is about; `at` in milliseconds since the epoch. */
type Told = Record<string, { readonly message: string; readonly at: number }>;

const REMIND_MS = 24 * 60 * 60 * 1000;

/**
 * Logs the problems of a command that runs every minute: one that is new or has
 * changed at once, one that stays once a day, and when one is over. `path` is
 * where it remembers them. Never rejects: what it can't remember it tells again.
 */
export async function tellChanges(path: string, problems: readonly Problem[], logger: Logger): Promise<void> {
  const told = await read(path);
  const now: Told = {};
  for (const { about, message } of problems) {
    const before = told[about];
    const known = before?.message === message && Date.now() - before.at < REMIND_MS;
    if (!known) logger.error({ about }, message);
    now[about] = known ? before : { message, at: Date.now() };
  }
  for (const about of Object.keys(told)) if (now[about] === undefined) logger.info({ about }, `${about} works again`);
  if (JSON.stringify(now) === JSON.stringify(told)) return;
  try {
    if (problems.length === 0) await unlinkIfThere(path);
    else await replace(path, `${JSON.stringify(now)}\n`);
  } catch (error) {
    logger.debug(`can't write ${path}: ${messageOf(error)}`);
  }
}

async function replace(path: string, text: string): Promise<void> {
  const temporary = `${path}.tmp`;
  await writeFile(temporary, text, { mode: 0o600 });
  await rename(temporary, path);
}

async function read(path: string): Promise<Told> {
  try {
    return parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    // None yet, not to be read, or damaged: the worst that comes of it is that something is told twice.
    if (errnoOf(error) !== undefined || error instanceof SyntaxError) return {};
    throw error;
  }
}

function parse(value: unknown): Told {
  const told: Told = {};
  if (typeof value !== 'object' || value === null) return told;
  for (const [about, entry] of Object.entries(value)) {
    if (typeof entry !== 'object' || entry === null || !('message' in entry) || !('at' in entry)) continue;
    if (typeof entry.message === 'string' && typeof entry.at === 'number') {
      told[about] = { message: entry.message, at: entry.at };
    }
  }
  return told;
}
