import { InvalidArgumentError } from 'commander';
import { LOG_LEVELS } from '../logging.ts';

// What stands after an option, checked.

/** 1, 2, … */
export function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('expected a positive integer.');
  return Number(text);
}

/** 0, 1, 2, … */
export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('expected a whole number.');
  return Number(text);
}

/** A level by Barman’s name, or pino’s. */
export function logLevel(text: string): string {
  const level = text.toUpperCase();
  if (!LOG_LEVELS.includes(level)) throw new InvalidArgumentError(`expected one of ${LOG_LEVELS.join(', ')}.`);
  return level;
}

/** 0 to 255. */
export function exitStatus(text: string): number {
  if (!/^\d{1,3}$/.test(text) || Number(text) > 255)
    throw new InvalidArgumentError('expected an exit status, 0 to 255.');
  return Number(text);
}
