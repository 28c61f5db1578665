import { link, open, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { WalName } from '../../src/wal/wal-name.ts';
import { makeWal } from '../support/make-wal.ts';
import { backupLabel, historyFile, type FaultHome } from './fault-home.ts';

/** How an archive_command may put a file into incoming. */
export const WAYS = ['rename', 'slow copy', 'copy', 'again', 'link'] as const;
export type Way = (typeof WAYS)[number];

/** Where it delivers to, and what it tells. */
export type Producing = Pick<FaultHome, 'home' | 'produced'>;

/**
 * Delivers files as PostgreSQL's archive_command does, one after the other,
 * until it is stopped. What it has delivered is in `produced` once its command
 * would have returned 0.
 */
export class Producer {
  readonly #fault: Producing;
  readonly #random: () => number;
  readonly #ways: readonly Way[];
  #segment: number;
  #timeline = 1;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();

  /** `first`: the number before that of the first segment. */
  constructor(fault: Producing, random: () => number, ways: readonly Way[] = WAYS, first = 0) {
    this.#fault = fault;
    this.#random = random;
    this.#ways = ways;
    this.#segment = first;
  }

  start(pauseMs: number): void {
    this.#running = (async () => {
      while (!this.#stopped) {
        await this.deliverOne();
        await delay(this.#random() * 2 * pauseMs);
      }
    })();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** The next segment, or now and then what comes with a backup or a promotion. */
  async deliverOne(): Promise<void> {
    const dice = this.#random();
    if (dice < 0.05) {
      this.#timeline += 1;
      const { name, content } = historyFile(this.#timeline);
      await this.#deliver(name, content, 'rename');
    } else if (dice < 0.1 && this.#segment > 0) {
      const { name, content } = backupLabel(this.#segment);
      await this.#deliver(name, content, this.#ways.includes('copy') ? 'copy' : 'rename');
    } else {
      this.#segment += 1;
      const options = { segment: this.#segment, content: 'compressible' } as const;
      const way = this.#ways[Math.floor(this.#random() * this.#ways.length)] ?? 'rename';
      await this.#deliver(makeWal({ ...options, content: 'zeros' }).name, () => makeWal(options).bytes, way);
    }
  }

  async #deliver(name: WalName, content: () => Buffer, way: Way): Promise<void> {
    const { home, produced } = this.#fault;
    const target = join(home.incoming, name);
    const bytes = content();
    switch (way) {
      case 'rename':
        await writeFile(`${target}.tmp`, bytes);
        await rename(`${target}.tmp`, target);
        break;
      case 'slow copy':
        await copySlowly(target, bytes);
        break;
      case 'copy':
        await writeFile(target, bytes);
        break;
      case 'again':
        // The command succeeded, but PostgreSQL crashed before it noted that.
        await writeFile(target, bytes);
        produced.set(name, content);
        await delay(this.#random() * 300);
        await copySlowly(target, bytes);
        break;
      case 'link':
        // As `ln %p incoming/%f` does: pg_wal keeps the inode, and PostgreSQL removes its name later.
        await writeFile(join(home.streaming, name), bytes);
        await link(join(home.streaming, name), target);
        await delay(this.#random() * 100);
        await unlink(join(home.streaming, name));
        break;
    }
    produced.set(name, content);
  }
}

/** cp(1) on a busy disk: truncates what is there, then writes piece by piece. */
async function copySlowly(target: string, bytes: Buffer): Promise<void> {
  await using handle = await open(target, 'w', 0o600);
  for (let at = 0; at < bytes.length; at += 300_000) {
    await handle.write(bytes.subarray(at, at + 300_000));
    await delay(5);
  }
}

/** A seeded generator of numbers from 0 to 1, so that a failure can be repeated (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}
