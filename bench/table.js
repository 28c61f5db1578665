// An aligned table: the first column to the left, the others to the right.

/** @param {string} title @param {string[]} head @param {(string | undefined)[][]} rows */
export function printTable(title, head, rows) {
  const all = [head, ...rows.map((row) => head.map((_, column) => row[column] ?? ''))];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (/** @type {string[]} */ row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ');
  console.log(`\n${title}\n`);
  console.log(line(all[0] ?? []));
  console.log(widths.map((width) => '-'.repeat(width)).join('  '));
  for (const row of all.slice(1)) console.log(line(row).trimEnd());
}

/** @param {number | undefined} ms */
export const seconds = (ms) => (ms === undefined ? '' : (ms / 1000).toFixed(2));
/** @param {number | undefined} ms */
export const millis = (ms) => (ms === undefined ? '' : ms.toFixed(0));
/** @param {number | undefined} bytes */
export const megabytes = (bytes) => (bytes === undefined ? '' : (bytes / 1e6).toFixed(0));
/** @param {number | undefined} value */
export const times = (value) => (value === undefined || Number.isNaN(value) ? '' : `${value.toFixed(2)}x`);

/** A goal and whether it was met. @param {string} text @param {boolean} met */
export const goal = (text, met) => `${text} ${met ? 'ok' : 'MISSED'}`;
