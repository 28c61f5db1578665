import { lstat } from 'node:fs/promises';
import type { ErrorFile } from '../archiver/errors-directory.ts';
import { identityIn } from '../archiver/identity.ts';
import { openDelivered, readWhole } from '../durable/delivered-file.ts';
import { errnoOf } from '../errors.ts';
import { rememberReplaced } from '../server-listing.ts';
import type { Server } from '../server.ts';
import { identityOf, sameIdentity } from '../storage/file-identity.ts';
import { readCopy, readDelivery } from '../storage/read-copy.ts';
import type { Replacement, StoredCopy } from '../storage/replacement.ts';
import { judgeCopies, type Judgement } from '../wal/judge-copies.ts';
import { decodeLongPageHeader } from '../wal/page-header.ts';
import { secondsOfNs } from '../wal/wal-file-info.ts';
import type { ParsedWalName } from '../wal/wal-name.ts';

/** What comes of a look at every archived copy of a WAL file, beside another one. */
export interface ArchivedJudgement {
  readonly judgement: Judgement;
  /** Those that the other one may take the place of; with `forced` in its text where only a person can say so. */
  readonly replaceable: readonly StoredCopy[];
}

/** Of several objects of one name, what forbids most decides. */
const ORDER: readonly Judgement['result'][] = [
  'conflict',
  'unclear',
  'both-damaged',
  'delivered-damaged',
  'replaceable',
  'covered',
  'same',
];

/** Judges every archived copy beside delivered bytes; null when nothing is archived under that name. */
export async function judgeArchived(
  server: Server,
  parsed: ParsedWalName,
  bytes: Buffer,
): Promise<ArchivedJudgement | null> {
  const { name } = parsed;
  const delivered = await readDelivery(bytes, name, server.unpacker);
  const { opaque } = await server.strategy.parts.rules();
  const judged: { readonly copy: StoredCopy; readonly judgement: Judgement }[] = [];
  for (const copy of await server.strategy.copies(name)) {
    const inKey = copy.compression === undefined ? [] : [copy.compression];
    const said = async (): Promise<(string | null)[]> => {
      const line = await server.catalogue.find(name);
      return line === undefined ? inKey : [...inKey, line.compression];
    };
    const archived = await readCopy(copy, said, name, server.keys);
    judged.push({ copy, judgement: judgeCopies(parsed, archived, delivered, opaque) });
  }
  judged.sort((a, b) => ORDER.indexOf(a.judgement.result) - ORDER.indexOf(b.judgement.result));
  const [first] = judged;
  if (first === undefined) return null;
  const { result } = first.judgement;
  const foreign = delivered.kind === 'plain' ? await whyForeign(server, parsed, delivered.bytes) : null;
  if (foreign !== null && result !== 'same') {
    return { judgement: { result: 'conflict', text: foreign }, replaceable: [] };
  }
  const replaceable = judged.filter(({ judgement }) => judgement.result === result).map(({ copy }) => copy);
  return { judgement: first.judgement, replaceable };
}

async function whyForeign(server: Server, { kind }: ParsedWalName, plain: Buffer): Promise<string | null> {
  if (kind !== 'segment' && kind !== 'partial') return null;
  const identity = await server.identity.current();
  const decoded = decodeLongPageHeader(plain);
  if (identity === null || !decoded.ok) return null;
  const own = identityIn(decoded.header)?.systemid;
  if (own === identity.systemid) return null;
  return `it is WAL of system identifier ${own}, and this archive belongs to ${identity.systemid}`;
}

/**
 * `errors resolve --replace`: puts a file of errors in the place of the archived
 * copy, when that is proved damaged, or the beginning of it, and this one verifies.
 * Call it under the archive-wal lock. `force`: also where the disk does not give the
 * archived copy back, or the records of this WAL can't be judged here.
 */
export async function replaceArchived(
  server: Server,
  file: ErrorFile,
  parsed: ParsedWalName,
  force: boolean,
): Promise<{ resolved: boolean; action: string }> {
  const left = (why: string): { resolved: boolean; action: string } => ({ resolved: false, action: `left: ${why}` });
  const path = server.errors.pathOf(file);
  await using opened = await openDelivered(path);
  const bytes = await readWhole(opened);
  const judged = await judgeArchived(server, parsed, bytes);
  if (judged === null) return left(`${parsed.name} is not archived`);
  const { judgement, replaceable } = judged;
  const forced = judgement.result === 'unclear' && judgement.forcible;
  if (judgement.result !== 'replaceable' && !forced)
    return left('text' in judgement ? judgement.text : 'it is archived');
  if (forced && !force) return left(`${judgement.text}; if you know better: --force`);

  const { plain, compression, verdict } = await server.unpacker.unpack(bytes, parsed.name);
  const header = verdict.verdict === 'valid' ? verdict.header : null;
  const by: Replacement = {
    name: parsed.name,
    source: path.toString('utf8'),
    delivered: bytes,
    compression,
    plain,
    segmentSize: header?.segmentSize ?? null,
    mtime: secondsOfNs(opened.stat.mtimeNs),
  };
  const kept: string[] = [];
  for (const copy of replaceable) {
    const result = await server.strategy.replace(copy, by, { unkept: force });
    if (result.outcome === 'refused') {
      const { reason, byHand } = result;
      const advice =
        byHand === undefined ? '' : `; by hand: ${byHand}, then: walwarden errors resolve ${server.name} ${file.entry}`;
      return left(`${reason}${advice}`);
    }
    kept.push(result.kept ?? 'nowhere: it could not be read');
  }
  await rememberReplaced(server, parsed.name);
  // Now that the copy and its line are durable; a file that came in its place is not the one that was archived.
  if (await isStill(path, opened.stat)) await server.errors.drop(file);
  const text = 'text' in judgement ? judgement.text : '';
  return { resolved: true, action: `replaced ${parsed.name}; what was there is kept in ${kept.join(', ')}: ${text}` };
}

async function isStill(path: Buffer, stat: Parameters<typeof identityOf>[0]): Promise<boolean> {
  try {
    return sameIdentity(identityOf(await lstat(path, { bigint: true })), identityOf(stat));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
