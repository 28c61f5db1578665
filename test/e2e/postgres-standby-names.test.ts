import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseSynchronousStandbyNames } from '../../src/postgres/synchronous-standby-names.ts';
import { withPostgres } from '../support/postgres.ts';

test('a real server takes the same settings of synchronous_standby_names, and no others', () =>
  withPostgres({}, async (pg) => {
    await using client = await pg.connect();
    const word = fc.constantFrom(
      'a',
      'B1',
      'first',
      'ANY',
      '2',
      '10',
      '(',
      ')',
      ',',
      '*',
      '"x y"',
      '"a""b"',
      '"',
      ' ',
      '_$',
      '-',
      'é',
    );
    const settings = fc.array(word, { minLength: 1, maxLength: 7 }).map((words) => words.join(''));
    const wellFormed = fc
      .tuple(
        fc.constantFrom('', '2', 'FIRST 1', 'any 3'),
        fc.array(fc.constantFrom('a', '"B c"', '*', '7'), { minLength: 1 }),
      )
      .map(([method, names]) => (method === '' ? names.join(',') : `${method} (${names.join(' , ')})`));
    await fc.assert(
      fc.asyncProperty(fc.oneof(settings, wellFormed), async (setting) => {
        const quoted = `'${setting.replaceAll("'", "''")}'`;
        const taken = await succeeds(client.query(`alter system set synchronous_standby_names = ${quoted}`));
        const parsed = await succeeds((async () => parseSynchronousStandbyNames(setting))());
        expect({ setting, taken: parsed }).toEqual({ setting, taken });
      }),
      { numRuns: 300 },
    );
  }));

async function succeeds(work: Promise<unknown>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch {
    return false;
  }
}
