import { makeWal, type MadeWal, type WalOptions } from './make-wal.ts';

const PAGE = 8192;

/** What a refusal of {@link brokenWal} says. */
export const BROKEN_PAGE = 'page 32 (at byte 262144) has the magic 0x0000, and the first page 0xD110';

/** A segment of 1 MiB whose first page is right, and which has a quarter of zeros in its middle. */
export function brokenWal(options: WalOptions = {}): MadeWal {
  const { name, bytes } = makeWal(options);
  bytes.fill(0, 32 * PAGE, 64 * PAGE);
  return { name, bytes };
}
