import { expect, test } from 'vitest';
import { Told } from '../../src/archiver/told.ts';

const DAY = 24 * 60 * 60 * 1000;

test('a file that stays as it is is news once, for another reason, and after a day', () => {
  const told = new Told();
  expect(told.isNews('file archival', 'a', 'incomplete for 5 s', 1000)).toBe(true);
  expect(told.isNews('file archival', 'a', 'incomplete for 6 s', 2000)).toBe(false);
  expect(told.isNews('file archival', 'b', 'incomplete for 6 s', 2000)).toBe(true);
  expect(told.isNews('streaming', 'a', 'incomplete for 6 s', 2000)).toBe(true);
  expect(told.isNews('file archival', 'a', 'permission denied', 3000)).toBe(true);
  expect(told.isNews('file archival', 'a', 'permission denied', 3000 + DAY)).toBe(true);
  expect(told.isNews('file archival', 'a', 'permission denied', 3001 + DAY)).toBe(false);
});

test('one that is gone for a pass is another file when it comes again', () => {
  const told = new Told();
  told.isNews('file archival', 'a', 'incomplete', 0);
  told.passOver('file archival');
  expect(told.isNews('file archival', 'a', 'incomplete', 1)).toBe(false);
  told.passOver('file archival');
  told.passOver('file archival');
  expect(told.isNews('file archival', 'a', 'incomplete', 2)).toBe(true);
});

test('a clock that was set back makes it news', () => {
  const told = new Told();
  told.isNews('file archival', 'a', 'incomplete', 1000);
  expect(told.isNews('file archival', 'a', 'incomplete', 999)).toBe(true);
});
