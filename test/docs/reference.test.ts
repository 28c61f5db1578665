import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const NOT_YET = 'not yet';

interface Row {
  readonly reference: string;
  readonly here: string;
  readonly proof: string;
}

function rows(): Row[] {
  const lines = readFileSync(join(ROOT, 'docs/reference.md'), 'utf8').split('\n');
  return lines
    .filter((line) => line.startsWith('|') && !/^\|\s*(reference\s|-)/.test(line))
    .map((line) => {
      const cells = line.split('|').map((cell) => cell.trim());
      expect(cells, line).toHaveLength(5);
      const [, reference = '', here = '', proof = ''] = cells;
      return { reference, here, proof };
    });
}

describe('docs/reference.md', () => {
  test('names a class or method, a file and a test in every row', () => {
    expect(rows().length).toBeGreaterThan(50);
    for (const { reference, here, proof } of rows()) {
      expect(reference).toMatch(/\S/);
      expect(here === NOT_YET, `${reference}: either both or none is "${NOT_YET}"`).toBe(proof === NOT_YET);
    }
  });

  test.each(rows().filter(({ here }) => here !== NOT_YET))(
    '$reference is in a file that exists, and so is its test',
    (row) => {
      expect(row.here).toMatch(/^src\/.+\.ts$/);
      expect(row.proof).toMatch(/^test\/.+\.ts$/);
      expect(existsSync(join(ROOT, row.here)), `${row.here} does not exist`).toBe(true);
      expect(existsSync(join(ROOT, row.proof)), `${row.proof} does not exist`).toBe(true);
      expect(readFileSync(join(ROOT, row.proof), 'utf8')).toMatch(/\b(test|it|describe\w+)(\.each|\.for)?\(/);
    },
  );
});
