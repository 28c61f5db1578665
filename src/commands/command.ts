import type { Logger } from 'pino';
import type { WalwardenConfig } from '../config/config.ts';

/** What a command is given beside its own arguments. */
export interface CommandContext {
  readonly config: WalwardenConfig;
  readonly logger: Logger;
  /** Aborted by the first SIGTERM or SIGINT: finish what is in hand. */
  readonly drain: AbortSignal;
  /** Aborted by the second: stop now, and leave no hook script behind. */
  readonly kill: AbortSignal;
}

/** What a command has to say; printed as text or as JSON. */
export interface Report {
  readonly text: string;
  readonly json: unknown;
  /** 0 when absent. */
  readonly exitCode?: number;
}

/** Bytes for people: 3 significant digits, powers of 1024. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit] ?? ''}`;
}

/** `1 file`, `2 files`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}
