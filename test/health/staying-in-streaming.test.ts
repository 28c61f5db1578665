import { expect, test } from 'vitest';
import { stayingInStreaming } from '../../src/server-facts.ts';
import { walName } from '../../src/wal/wal-name.ts';

const staying = (...names: string[]): string[] =>
  [...stayingInStreaming(names.sort().map((name) => walName(name)))].sort();

const A1 = '000000010000000000000001';
const A2 = '000000010000000000000002';
const A9 = '000000010000000000000009';
const B5 = '000000020000000000000005';

test('of complete segments the last one stays', () => {
  expect(staying(A1, A2)).toEqual([A2]);
});

test('of a segment and the partial after it, the partial stays', () => {
  expect(staying(A1, `${A2}.partial`)).toEqual([`${A2}.partial`]);
});

test('older partials are archived, and the newest stays', () => {
  expect(staying(`${A1}.partial`, `${A2}.partial`)).toEqual([`${A2}.partial`]);
});

test('the newest partial stays also below a complete segment', () => {
  expect(staying(`${A1}.partial`, A2)).toEqual([`${A1}.partial`, A2]);
});

test('after a promotion that began earlier, the last of both timelines may be needed', () => {
  expect(staying(A1, A9, `${B5}.partial`)).toEqual([A9, `${B5}.partial`]);
});

test('history files and an empty directory have nothing that stays', () => {
  expect(staying('00000002.history')).toEqual([]);
  expect(staying()).toEqual([]);
});
