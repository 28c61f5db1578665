import type { WalwardenError } from './errors.ts';

// How numbers, times and errors are told to people.

/** Bytes: 3 significant digits, powers of 1024. */
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

/** `1 file`, `2 files`; `plural` where it is another word. */
export function count(number: number, noun: string, plural = `${noun}s`): string {
  return `${number} ${number === 1 ? noun : plural}`;
}

/** A point in time, from milliseconds since the epoch: `2026-10-03 14:02:11 UTC`. */
export function formatTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

const UNITS: readonly (readonly [size: number, name: string])[] = [
  [86_400_000, 'day'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1_000, 's'],
];

/** A span of time in its largest unit, with the next one where that is small: `4 s`, `1 h 20 min`, `12 days`. */
export function formatSpan(ms: number): string {
  if (ms > 0 && ms < 1_000) return `${Math.ceil(ms)} ms`;
  const at = UNITS.findIndex(([size]) => ms >= size);
  const [size, name] = UNITS[at] ?? [1_000, 's'];
  const whole = Math.max(0, Math.floor(ms / size));
  const text = name === 'day' ? count(whole, name) : `${whole} ${name}`;
  const [smaller, smallerName] = UNITS[at + 1] ?? [size, name];
  const rest = Math.floor((ms - whole * size) / smaller);
  return at === -1 || whole >= 3 || rest <= 0 ? text : `${text} ${rest} ${smallerName}`;
}

/** A point in time and how long ago it was. */
export function formatMoment(ms: number, now: number): string {
  return now < ms ? formatTime(ms) : `${formatTime(ms)} (${formatSpan(now - ms)} ago)`;
}

/** An error in one line, with what to do about it. */
export function explain(error: WalwardenError): string {
  return oneLine(error.hint === undefined ? error.message : `${error.message}; ${error.hint}`);
}

/** What others say may have line breaks. */
export function oneLine(text: string): string {
  return text.trim().replace(/\s*[\r\n]+\s*/g, '; ');
}
