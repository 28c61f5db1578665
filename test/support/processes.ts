import { readdir, readFile } from 'node:fs/promises';
import { errnoOf } from '../../src/errors.ts';

/** A process that lives, as /proc shows it. Zombies are none: they only wait for their parent. */
export interface LiveProcess {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
}

/** The living processes of this machine that we may look at. */
export async function liveProcesses(): Promise<LiveProcess[]> {
  const found: LiveProcess[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    // pid (comm) state ppid …: the name may hold anything, parentheses included.
    const stat = await readProc(`/proc/${entry}/stat`);
    const match = /^\d+ \((.*)\) (\S) (\d+)/s.exec(stat ?? '');
    if (match === null || match[2] === 'Z' || match[2] === 'X') continue;
    found.push({ pid: Number(entry), parent: Number(match[3]), command: match[1] ?? '' });
  }
  return found;
}

/** A process's living descendants, without itself. */
export async function descendantsOf(pid: number): Promise<LiveProcess[]> {
  const all = await liveProcesses();
  const below = new Set([pid]);
  const found: LiveProcess[] = [];
  for (let grew = true; grew;) {
    grew = false;
    for (const process of all) {
      if (!below.has(process.parent) || below.has(process.pid)) continue;
      below.add(process.pid);
      found.push(process);
      grew = true;
    }
  }
  return found;
}

/** The living processes that were started with `name=value` in their environment, orphans included. */
export async function processesWithEnv(name: string, value: string): Promise<LiveProcess[]> {
  const found: LiveProcess[] = [];
  for (const candidate of await liveProcesses()) {
    if (candidate.pid === process.pid) continue;
    const environ = await readProc(`/proc/${candidate.pid}/environ`);
    if (environ?.split('\0').includes(`${name}=${value}`)) found.push(candidate);
  }
  return found;
}

/** kill(2) that doesn't mind when the process is gone. */
export function killIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

async function readProc(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'latin1');
  } catch (error) {
    // Gone meanwhile, or somebody else's.
    if (['ENOENT', 'ESRCH', 'EACCES', 'EPERM'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
}
