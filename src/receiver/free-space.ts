import { statfs } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** When receiving pauses for lack of space, in bytes of free space. */
export interface SpaceLimits {
  /** Below this nothing is received. */
  readonly pauseBelow: number;
  /** From this on it goes on: more than `pauseBelow`, so that it doesn't stop and go with every segment. */
  readonly resumeFrom: number;
}

/** The free space of a disk at one moment, in bytes. */
export interface DiskSpace {
  readonly free: number;
  readonly limits: SpaceLimits;
}

/** What is watched. */
export interface WatchedDisk {
  readonly directory: string;
  /** `receive_wal_min_free`. */
  readonly minFree: number | null;
  /** Bytes. */
  readonly segmentSize: number;
}

const GIB = 1024 ** 3;

/**
 * The limits for a disk of `total` bytes: `receive_wal_min_free`, or 5 % and at
 * most 1 GiB, but at least two segments, since pg_receivewal fills each with
 * zeros as it begins it; never more than a half of the disk. It goes on two segments above, but never asks for more than a
 * tenth more: on a small disk that may never come.
 */
export function spaceLimits(minFree: number | null, total: number, segmentSize: number): SpaceLimits {
  const share = Math.max(Math.min(Math.floor(total / 20), GIB), 2 * segmentSize);
  const pauseBelow = minFree ?? Math.min(share, Math.floor(total / 2));
  return { pauseBelow, resumeFrom: pauseBelow + Math.min(2 * segmentSize, Math.floor(pauseBelow / 10)) };
}

/** The space that is too little; null when there is enough, or the file system can't tell. */
export async function lowSpace(disk: WatchedDisk): Promise<DiskSpace | null> {
  const space = await spaceOf(disk);
  return space !== null && space.free < space.limits.pauseBelow ? space : null;
}

/** Resolves when there is too little space; rejects when `scope` ends. */
export async function untilLowSpace(disk: WatchedDisk, scope: AbortSignal): Promise<DiskSpace> {
  for (;;) {
    const space = await spaceOf(disk);
    if (space !== null && space.free < space.limits.pauseBelow) return space;
    await delay(lookAgainMs(space), undefined, { signal: scope });
  }
}

/** Resolves when there is enough again; rejects when `scope` ends. */
export async function untilEnoughSpace(disk: WatchedDisk, scope: AbortSignal): Promise<DiskSpace> {
  for (;;) {
    const space = await spaceOf(disk);
    if (space !== null && space.free >= space.limits.resumeFrom) return space;
    await delay(1_000, undefined, { signal: scope });
  }
}

async function spaceOf({ directory, minFree, segmentSize }: WatchedDisk): Promise<DiskSpace | null> {
  try {
    const { bsize, bavail, blocks } = await statfs(directory);
    return { free: bavail * bsize, limits: spaceLimits(minFree, blocks * bsize, segmentSize) };
  } catch {
    // Not there, or not well: pg_receivewal will say more about that than we could.
    return null;
  }
}

/** Often where the disk could be full in a second or two: no server writes more than some GiB of WAL a second. */
function lookAgainMs(space: DiskSpace | null): number {
  return space !== null && space.free < space.limits.pauseBelow + 8 * GIB ? 250 : 1_000;
}
