import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { plainBytes, type ReadingKeys } from '../../src/storage/stored-content.ts';
import { readXlogdbLine, type WalFileInfo } from '../../src/wal/wal-file-info.ts';
import { isWalName, walDirectory, walName, type WalName } from '../../src/wal/wal-name.ts';
import type { TestHome } from '../support/temp-dir.ts';

/** What was delivered to one server, and where it may be now. */
export interface Deliveries {
  readonly home: TestHome;
  readonly keys: ReadingKeys;
  /** What every name was delivered with: always the same content. */
  readonly produced: ReadonlyMap<WalName, () => Buffer>;
  /** Files of pg_receivewal that must be in streaming at any instant, as they are and for it alone. */
  readonly staying: ReadonlyMap<string, () => Buffer>;
  /** The names under which those came that are to be stored under another one. */
  readonly cameAs: ReadonlyMap<WalName, WalName>;
}

/**
 * The invariants of the save protocol that are broken, none of them by what
 * happened to the process: `crashed` holds at any instant, `healed` after one
 * more pass, when nothing arrived meanwhile.
 */
export async function violations(deliveries: Deliveries, state: 'crashed' | 'healed'): Promise<string[]> {
  const { home, keys, produced, staying, cameAs } = deliveries;
  const found: string[] = [];
  const archive = await readArchive(home);
  const claims = ['incoming', 'streaming'].map((kind) => join(home.home, home.server, '.claimed', kind));
  const waiting = [home.incoming, home.streaming, ...claims].map(async (directory) =>
    (await namesIn(directory)).map((entry) => ({ directory, entry })),
  );
  const sourcesThere = (await Promise.all(waiting)).flat();
  const errors = await namesIn(home.errors);
  const catalogue = await readCatalogue(home);

  for (const [name, content] of produced) {
    const expected = content();
    const isWhole = async (path: string): Promise<boolean> => isSame(path, expected, keys);
    const final = archive.finals.get(name);
    const intact = final !== undefined && (await isWhole(final));
    if (final !== undefined && !intact)
      found.push(`${name} is archived, but not with the content that it arrived with`);
    const came = cameAs.get(name) ?? name;
    const waitingCopies = sourcesThere
      .filter(({ entry }) => entry === came || entry === `.walwarden-${came}`)
      .map(({ directory, entry }) => join(directory, entry));
    const inErrors = errors.filter((entry) => entry.startsWith(`${came}.`)).map((entry) => join(home.errors, entry));
    // Under one name may wait what is the source of two.
    const sources = await wholeOf(waitingCopies, isWhole);
    if (!intact && sources.length === 0 && (await wholeOf(inErrors, isWhole)).length === 0)
      found.push(`${name} is lost`);
    if (sources.length === 0 && intact && !catalogue.lines.has(name) && !catalogue.legacy.includes(`${name}\t`)) {
      found.push(`the source of ${name} is gone, and it has no line`);
    }
    if (state === 'healed' && final === undefined) found.push(`${name} is not archived`);
  }
  for (const [entry, content] of staying) {
    const path = join(home.streaming, entry);
    if (!(await isSame(path, content(), {}))) found.push(`${entry} is not in streaming as pg_receivewal left it`);
    else if ((await stat(path)).nlink > 1) found.push(`the inode of ${entry} is not pg_receivewal's alone`);
  }
  for (const name of archive.finals.keys()) if (!produced.has(name)) found.push(`${name} is archived, and never came`);
  found.push(...catalogue.problems);
  if (state === 'crashed') return found;

  for (const { directory, entry } of sourcesThere) {
    if (directory === home.streaming && staying.has(entry)) continue;
    found.push(`${entry} is left in ${basename(directory)}`);
  }
  for (const entry of errors) found.push(`${entry} is in errors`);
  for (const path of archive.others) found.push(`${path} is left in the archive`);
  for (const entry of await namesIn(join(home.home, home.server))) {
    if (entry.endsWith('.tmp')) found.push(`${entry} is left beside the archive`);
  }
  if (catalogue.torn !== '') found.push(`the catalogue ends in ${JSON.stringify(catalogue.torn)}`);
  for (const [name, path] of archive.finals) {
    const line = catalogue.lines.get(name);
    if (line === undefined) found.push(`${name} has no line`);
    else if (line.size !== (await stat(path)).size) found.push(`the line of ${name} says ${line.size} bytes`);
  }
  for (const name of catalogue.lines.keys())
    if (!archive.finals.has(name)) found.push(`${name} has a line and no file`);
  return found;
}

async function wholeOf(paths: readonly string[], isWhole: (path: string) => Promise<boolean>): Promise<string[]> {
  const whole = await Promise.all(paths.map(isWhole));
  return paths.filter((_path, index) => whole[index]);
}

/** A claim and a file in errors have more around it. */
const WAL_NAME = /[0-9A-F]{8}(?:[0-9A-F]{16}(?:\.partial|\.[0-9A-F]{8}\.backup)?|\.history)/;

async function isSame(path: string, expected: Buffer, keys: ReadingKeys): Promise<boolean> {
  try {
    const name = walName(WAL_NAME.exec(basename(path))?.[0] ?? '');
    return (await plainBytes({ bytes: await readFile(path) }, name, keys)).equals(expected);
  } catch {
    // Half a file can't be decompressed.
    return false;
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch {
    return [];
  }
}

interface Archive {
  readonly finals: ReadonlyMap<WalName, string>;
  /** Whatever else lies there, but the catalogue. */
  readonly others: readonly string[];
}

async function readArchive({ wals, server }: TestHome): Promise<Archive> {
  const finals = new Map<WalName, string>();
  const others: string[] = [];
  for (const entry of await readdir(wals, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    if (isWalName(entry.name) && path === join(wals, walDirectory(entry.name), entry.name))
      finals.set(entry.name, path);
    else if (basename(path) !== `${server}-xlog.db` && entry.name !== 'xlog.db') others.push(path);
  }
  return { finals, others };
}

interface Catalogue {
  /** The last line of each name. */
  readonly lines: ReadonlyMap<WalName, WalFileInfo>;
  /** The text of the one that a Barman before 3.13 on the same home writes; its lines come into ours with the next lock. */
  readonly legacy: string;
  /** What stands after the last newline. */
  readonly torn: string;
  readonly problems: readonly string[];
}

async function readCatalogue({ wals, server }: TestHome): Promise<Catalogue> {
  const text = await readIfThere(join(wals, `${server}-xlog.db`));
  const legacy = await readIfThere(join(wals, 'xlog.db'));
  const texts = text.split('\n');
  const torn = texts.pop() ?? '';
  const lines = new Map<WalName, WalFileInfo>();
  const problems: string[] = [];
  let highest = '';
  for (const line of texts) {
    const info = readXlogdbLine(line);
    if (info === undefined) {
      problems.push(`the catalogue has a line ${JSON.stringify(line)}`);
      continue;
    }
    if (lines.has(info.name)) problems.push(`${info.name} has two lines`);
    else if (info.name < highest) problems.push(`${info.name} stands below ${highest}`);
    lines.set(info.name, info);
    highest = info.name;
  }
  return { lines, legacy, torn, problems };
}

async function readIfThere(path: string): Promise<string> {
  try {
    return await readFile(path, 'latin1');
  } catch {
    // Nothing was archived yet.
    return '';
  }
}
