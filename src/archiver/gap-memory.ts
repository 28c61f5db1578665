import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fsyncDirectory, replaceFile } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import type { Acknowledgement, GapKnowledge } from '../wal/gaps.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

/** What is remembered of gaps, as it stands in the file. */
interface Remembered {
  readonly acknowledged: readonly Acknowledgement[];
  readonly borders: readonly WalName[];
  /** Segments before gaps behind which the same cluster's WAL goes on: they were read, and need not be again. */
  readonly judged: readonly WalName[];
}

const NOTHING: Remembered = { acknowledged: [], borders: [], judged: [] };

/** Remembers which gaps somebody knows of, and where the WAL of one cluster ends and that of the next begins. */
export class GapMemory {
  readonly path: string;
  readonly #lock: () => Promise<AsyncDisposable>;

  /** `lock` keeps others from changing it at the same time. */
  constructor(path: string, lock: () => Promise<AsyncDisposable>) {
    this.path = path;
    this.#lock = lock;
  }

  /** Never rejects: a file that can't be understood acknowledges nothing. */
  async read(): Promise<GapKnowledge & { readonly judged: ReadonlySet<WalName> }> {
    const { acknowledged, borders, judged } = await this.#read().catch(() => NOTHING);
    return { acknowledged, borders: new Set(borders), judged: new Set(judged) };
  }

  /** Durable when it resolves. `change` may give back what it was given, and nothing is written then. */
  async change(change: (known: Remembered) => Remembered): Promise<void> {
    await using _lock = await this.#lock();
    const before = await this.#read();
    const after = change(before);
    if (JSON.stringify(after) === JSON.stringify(before)) return;
    await replaceFile(this.path, Buffer.from(`${JSON.stringify(after, null, 2)}\n`), { mode: 0o600 });
    await fsyncDirectory(dirname(this.path));
  }

  async #read(): Promise<Remembered> {
    let text: string;
    try {
      text = await readFile(this.path, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return NOTHING;
      throw new WalwardenError('storage', `can't read ${this.path}: ${messageOf(error)}`, { cause: error });
    }
    const known = parse(text);
    if (known !== null) return known;
    throw new WalwardenError('storage', `${this.path} is damaged: expected the acknowledged gaps as JSON`, {
      hint: 'move it away, and acknowledge the gaps again',
    });
  }
}

function parse(text: string): Remembered | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null; // no JSON at all
  }
  const facts = new Map<string, unknown>(typeof value === 'object' && value !== null ? Object.entries(value) : []);
  const [known, borders, judged] = [
    facts.get('acknowledged'),
    namesIn(facts.get('borders')),
    namesIn(facts.get('judged')),
  ];
  if (!Array.isArray(known) || borders === null || judged === null) return null;
  const acknowledged = known.map(parseOne).filter((one) => one !== null);
  return acknowledged.length === known.length ? { acknowledged, borders, judged } : null;
}

function namesIn(value: unknown): WalName[] | null {
  if (!Array.isArray(value)) return null;
  const names = value.filter((name): name is WalName => typeof name === 'string' && isWalName(name));
  return names.length === value.length ? names : null;
}

function parseOne(value: unknown): Acknowledgement | null {
  const facts = new Map<string, unknown>(typeof value === 'object' && value !== null ? Object.entries(value) : []);
  const [first, last, reason, at] = [facts.get('first'), facts.get('last'), facts.get('reason'), facts.get('at')];
  if (typeof first !== 'string' || !isWalName(first) || typeof last !== 'string' || !isWalName(last)) return null;
  return typeof reason === 'string' && typeof at === 'number' ? { first, last, reason, at } : null;
}
