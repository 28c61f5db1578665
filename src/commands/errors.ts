import { join } from 'node:path';
import { findCovering, isTimelineLeftIn, withoutPadding } from '../archiver/covering-wal.ts';
import { summariseErrorFiles, type ErrorFile } from '../archiver/errors-directory.ts';
import { identityIn } from '../archiver/identity.ts';
import { findServer } from '../config/config.ts';
import { readDelivered } from '../durable/delivered-file.ts';
import { errnoOf, isErrorCode, messageOf, WalwardenError } from '../errors.ts';
import { rememberBorders } from '../server-gaps.ts';
import { openServer, type Server } from '../server.ts';
import { claimPath } from '../storage/claim.ts';
import { S3Error } from '../storage/s3/s3-failure.ts';
import type { Comparison } from '../storage/wal-storage-strategy.ts';
import { plainBytes } from '../storage/stored-content.ts';
import { judgeForTaking } from '../storage/taking.ts';
import type { Judgement } from '../wal/judge-copies.ts';
import type { LongPageHeader } from '../wal/page-header.ts';
import { judgeTextFile } from '../wal/verify.ts';
import { parseWalName, type ParsedWalName, type WalName } from '../wal/wal-name.ts';
import { acceptConnectedIdentity } from './accept-identity.ts';
import { asOnlyCopy } from './only-copy.ts';
import { takeFileAsItIs, takeRefusedAsItIs } from './as-it-is.ts';
import { judgeArchived, replaceArchived } from './replace-archived.ts';
import { count, type CommandContext, type Report } from './command.ts';

/** What a file in errors turns out to be, compared with the archive. */
export type Finding =
  | { readonly state: 'identical'; readonly wal: WalName; readonly text: string }
  /** `advice`: what to do instead of archiving it unasked. */
  | { readonly state: 'archivable'; readonly wal: WalName; readonly text: string; readonly advice?: string }
  /** A partial file of which the archive (`wal`) has every byte; null: it has none. */
  | { readonly state: 'superfluous'; readonly wal: WalName | null; readonly text: string }
  /** A segment whose first page is right, and a later one isn't. */
  | { readonly state: 'broken'; readonly wal: WalName; readonly text: string }
  | { readonly state: 'foreign'; readonly wal: WalName; readonly header: LongPageHeader; readonly text: string }
  /** The archived copy is damaged, or ends where this one goes on. */
  | { readonly state: 'replaceable'; readonly wal: ParsedWalName; readonly text: string }
  /** Not understood, though it has the name and the size of this server's WAL, and not archived. */
  | { readonly state: 'only-copy'; readonly wal: WalName; readonly text: string; readonly advice: string }
  | { readonly state: 'different' | 'unusable'; readonly text: string; readonly advice?: string };

type State = Finding['state'];

/** What a person says about one file. */
export interface ResolveOptions {
  readonly keepAside?: boolean;
  readonly acceptIdentity?: boolean;
  readonly asItIs?: boolean;
  readonly replace?: boolean;
  /** With `replace`: also where the archived copy can't be read, or this one's records can't be judged. */
  readonly force?: boolean;
}

const ADVICE: Record<Exclude<State, 'only-copy'>, string> = {
  identical: 'the archive has the same content: resolve drops this copy',
  superfluous: 'the archive has all that it holds: resolve drops it',
  archivable: 'it is valid and not archived: resolve archives it again',
  broken:
    'it may be the only copy: look in pg_wal of the server, and of its standbys, for a whole one, and deliver that; without one: resolve --as-it-is, with its name, archives this one as it is',
  foreign:
    'if that is our own cluster after pg_upgrade: resolve --accept-identity, with its name; else find out who delivers here',
  different:
    'another content under one name: find out which cluster wrote it; resolve --keep-aside, with its name, takes it out of the way',
  replaceable:
    'this is the better one: resolve --replace, with its name, puts it in the place of the archived copy, which is kept',
  unusable: 'it can not be archived: resolve --keep-aside, with its name, takes it out of the way',
};

const KEEP_DAMAGED =
  'the archived copy is the good one; resolve --keep-aside, with its name, takes this one out of the way';
const FIND_THIRD =
  'neither is whole: find another copy (pg_wal of the server or of a standby, another archive) and have it delivered; what is right in both has to be in it; resolve --keep-aside, with its name, takes this one out of the way';
const CAN_NOT_TELL =
  'run this where the archived copy can be read and decrypted; if you know by other means that it is damaged, move it out of the archive, then resolve archives this one';

const LONGER =
  'it is the better one of the two: to recover to the end of its timeline, use it in place of the archived one; resolve --keep-aside, with its name, keeps it and takes it out of the way';

const ADVICE_BY_JUDGEMENT: Partial<Record<Judgement['result'], string>> = {
  'delivered-damaged': KEEP_DAMAGED,
  'both-damaged': FIND_THIRD,
  unclear: CAN_NOT_TELL,
};

export function adviceOf(finding: Finding): string {
  if (finding.state === 'only-copy') return finding.advice;
  return ('advice' in finding ? finding.advice : undefined) ?? ADVICE[finding.state];
}

/** `errors list SERVER`. */
export async function listErrors(context: CommandContext, name: string): Promise<Report> {
  await using server = openServer(context.config, findServer(context.config, name), context.logger);
  const files = await server.errors.list();
  const summary = summariseErrorFiles(files.map(({ entry }) => entry));
  const unexplained = `no reason recorded; "walwarden errors explain ${name}" compares it`;
  const lines = files.map(({ entry, reason }) => `\t${JSON.stringify(entry)}: ${reason ?? unexplained}\n`);
  const text =
    summary === null ? `Server ${name}: no files in errors\n` : `Server ${name}: ${summary}\n${lines.join('')}`;
  return { text, json: { server: name, directory: server.errors.path, summary, files: files.map(shown) } };
}

/** What JSON shows of a file. */
function shown({ entry, name, kind, reason }: ErrorFile): Omit<ErrorFile, 'raw'> {
  return { entry, name, kind, reason };
}

/** `errors explain SERVER [FILE]`. */
export async function explainErrors(context: CommandContext, name: string, file: string | undefined): Promise<Report> {
  await using server = openServer(context.config, findServer(context.config, name), context.logger);
  const explained: { file: ErrorFile; finding: Finding }[] = [];
  for (const chosen of await choose(server, file))
    explained.push({ file: chosen, finding: await examine(server, chosen) });
  const text = explained.map(
    ({ file: { entry, reason }, finding }) =>
      `${JSON.stringify(entry)}${finding.state === 'only-copy' ? `: the only copy of ${finding.wal} that walwarden knows of, keep it` : ''}\n` +
      (reason === null ? '' : `\tmoved here because ${reason}\n`) +
      `\tnow: ${finding.text}\n\tadvice: ${adviceOf(finding)}\n`,
  );
  return {
    text: text.length === 0 ? `Server ${name}: no files in errors\n` : text.join(''),
    json: explained.map(({ file: chosen, finding }) => ({
      ...shown(chosen),
      state: finding.state,
      finding: finding.text,
      advice: adviceOf(finding),
    })),
  };
}

/**
 * `errors resolve SERVER [FILE]`: what is safe; the exit status is 1 when something is left that a person must decide.
 * `acceptIdentity`: the system identifier in that file, or that of the connected server, is ours from now on.
 */
export async function resolveErrors(
  context: CommandContext,
  name: string,
  file: string | undefined,
  options: ResolveOptions,
): Promise<Report> {
  for (const [given, option] of [
    [options.keepAside, '--keep-aside'],
    [options.asItIs, '--as-it-is'],
    [options.replace, '--replace'],
  ] as const) {
    if (given === true && file === undefined) throw new WalwardenError('usage', `${option} needs the name of one file`);
  }
  const orders = [options.keepAside, options.asItIs, options.replace].filter((given) => given === true);
  if (orders.length > 1) {
    throw new WalwardenError('usage', '--keep-aside, --as-it-is and --replace exclude each other');
  }
  if (options.force === true && options.replace !== true) {
    throw new WalwardenError('usage', '--force is for --replace only');
  }
  await using server = openServer(context.config, findServer(context.config, name), context.logger);
  await using _lock = await server.lockArchive();
  // With a file, its header tells the new identifier; without one, the connected server.
  const accepted = options.acceptIdentity === true && file === undefined ? await acceptConnectedIdentity(server) : null;
  if (accepted !== null) context.logger.warn({ server: name }, accepted);
  const done: { entry: string; action: string; resolved: boolean }[] = [];
  if (options.asItIs === true && file !== undefined && !(await isThere(server, file))) {
    const action = await takeRefusedAsItIs(server, file);
    context.logger.warn({ server: name, wal: file }, `${file}: ${action}`);
    done.push({ entry: file, action, resolved: true });
  } else
    for (const chosen of await choose(server, file)) {
      const finding = await examine(server, chosen);
      const { resolved, action } = await resolve(server, chosen, finding, file === undefined ? null : options);
      context.logger.info({ server: name, file: chosen.entry, resolved }, `${chosen.entry}: ${action}`);
      done.push({ entry: chosen.entry, action, resolved });
    }
  const open = done.filter(({ resolved }) => !resolved).length;
  const text =
    (accepted === null ? '' : `Server ${name}: ${accepted}\n`) +
    done.map(({ entry, action }) => `\t${JSON.stringify(entry)}: ${action}\n`).join('') +
    `Server ${name}: ${count(done.length - open, 'file')} resolved, ${open} left\n`;
  return { text, json: { server: name, accepted, files: done }, exitCode: open === 0 ? 0 : 1 };
}

async function isThere(server: Server, file: string): Promise<boolean> {
  return (await server.errors.list()).some(({ entry }) => entry === file);
}

/** The files in errors, or the one of that name. */
export async function choose(server: Server, file: string | undefined): Promise<ErrorFile[]> {
  const files = await server.errors.list();
  if (file === undefined) return files;
  const chosen = files.filter(({ entry }) => entry === file);
  if (chosen.length === 0) {
    throw new WalwardenError('usage', `no file ${JSON.stringify(file)} in ${server.errors.path}`, {
      hint: `see: walwarden errors list ${server.name}`,
    });
  }
  return chosen;
}

export async function examine(server: Server, file: ErrorFile): Promise<Finding> {
  const finding = await compareWithArchive(server, file);
  return finding.state === 'unusable' ? ((await asOnlyCopy(server, file, finding.text)) ?? finding) : finding;
}

async function compareWithArchive(server: Server, file: ErrorFile): Promise<Finding> {
  const path = server.errors.pathOf(file);
  const parsed = parseWalName(file.name);
  if (parsed === undefined)
    return { state: 'unusable', text: `${JSON.stringify(file.name)} is not the name of a WAL file` };
  // What is read back below counts on it.
  await server.headers.opaque();
  let bytes: Buffer;
  try {
    bytes = await readDelivered(path);
  } catch (error) {
    return { state: 'unusable', text: `it can not be read: ${messageOf(error)}` };
  }
  const comparison = await compareArchived(server, parsed.name, bytes);
  const archived = comparison.result === 'absent' ? null : await judgeArchived(server, parsed, bytes);
  if (archived?.judgement.result === 'replaceable') {
    // A digest may vouch for bytes that are others meanwhile.
    return { state: 'replaceable', wal: parsed, text: archived.judgement.text };
  }
  if (comparison.result === 'same') {
    return { state: 'identical', wal: parsed.name, text: `${parsed.name} is archived with the same content` };
  }
  let plain: Buffer;
  try {
    plain = (await server.unpacker.unpack(bytes, parsed.name)).plain;
  } catch (error) {
    if (comparison.result !== 'different')
      return { state: 'unusable', text: `it does not read back: ${messageOf(error)}` };
    plain = bytes;
  }
  if (parsed.kind === 'partial') {
    const superfluous = await examinePartial(server, parsed, plain);
    if (superfluous !== null) return superfluous;
  }
  if (parsed.kind === 'history' || parsed.kind === 'backup') {
    const found = await examineText(server, parsed, plain);
    if (found !== null) return found;
  }
  if (comparison.result === 'different') {
    if (archived?.judgement.result === 'covered') {
      return { state: 'superfluous', wal: parsed.name, text: archived.judgement.text };
    }
    const found = await difference(server, parsed, bytes, comparison.reason);
    return archived === null ? found : withJudgement(found, archived.judgement);
  }
  const verdict = judgeForTaking(parsed, plain, await server.strategy.parts.rules());
  if (verdict.verdict === 'invalid' && verdict.broken !== undefined)
    return { state: 'broken', wal: parsed.name, text: verdict.reason };
  if (verdict.verdict !== 'valid') return { state: 'unusable', text: `it is not valid: ${verdict.reason}` };
  const identity = await server.identity.current();
  const own = identityIn(verdict.header);
  if (verdict.header !== null && identity !== null && own?.systemid !== identity.systemid) {
    const text = `it is WAL of system identifier ${own?.systemid}, and this archive belongs to ${identity.systemid}`;
    return { state: 'foreign', wal: parsed.name, header: verdict.header, text };
  }
  const text = `it is valid, and ${parsed.name} is not archived`;
  const found = { state: 'archivable', wal: parsed.name, text } as const;
  const { header } = verdict;
  if (file.kind !== 'reset' || parsed.kind !== 'partial' || header === null) return found;
  // What was archived under that name is never replaced, and more of this segment may be received yet.
  if (await isTimelineLeftIn(server, parsed, header.segmentSize)) return found;
  const advice = `once its timeline has come to its end there (after a failover): walwarden errors resolve ${server.name} ${file.entry}`;
  return { ...found, advice };
}

/** A disk that does not give one file back is no reason to say nothing of it; an endpoint that does not answer is. */
async function compareArchived(server: Server, name: WalName, bytes: Buffer): Promise<Comparison> {
  try {
    return await server.strategy.compare(name, bytes);
  } catch (error) {
    if (!isErrorCode(error, 'storage') || error instanceof S3Error) throw error;
    return { result: 'different', reason: `the archived copy can't be read: ${error.message}` };
  }
}

/** Whether a partial segment, padded with zeros, holds anything that the archive has not. */
async function examinePartial(server: Server, parsed: ParsedWalName, plain: Buffer): Promise<Finding | null> {
  const content = withoutPadding(plain);
  if (content.length === 0) return { state: 'superfluous', wal: null, text: 'it holds no WAL, only zeros or nothing' };
  const covering = await findCovering(server, parsed, content);
  if (covering === null) return null;
  return { state: 'superfluous', wal: covering, text: `${covering} is archived, and has every byte of it` };
}

/** Says which of the two is damaged, and what to do then. */
function withJudgement(found: Finding & { state: 'different' }, judgement: Judgement): Finding {
  if (judgement.result === 'same') return found;
  const text = `${found.text}; ${judgement.text}`;
  const advice: string | undefined = found.advice ?? ADVICE_BY_JUDGEMENT[judgement.result];
  return { state: 'different', text, ...(advice === undefined ? {} : { advice }) };
}

/** A history file or backup label that was delivered empty, or cut short; null for any other. */
async function examineText(server: Server, parsed: ParsedWalName, plain: Buffer): Promise<Finding | null> {
  const verdict = judgeTextFile(parsed, plain);
  if (verdict.verdict !== 'incomplete') return null;
  const { name } = parsed;
  const stored = await server.strategy.read(name);
  if (stored !== null) {
    const whole = await plainBytes(stored, name, server.keys);
    if (!whole.subarray(0, plain.length).equals(plain)) return null;
    return {
      state: 'superfluous',
      wal: name,
      text: `it is incomplete (${verdict.reason}), and ${name} is archived, and begins with it`,
    };
  }
  const { incoming_wals_directory: incoming } = server.config.options;
  const advice =
    `copy pg_wal/${name} of a server that has it to ${incoming}; once that is archived, resolve drops this one. ` +
    (parsed.kind === 'history'
      ? 'Until then get-wal calls it absent only while there is no WAL of its timeline or a later one; if it is lost for good, ' +
        'resolve --keep-aside, with its name, lets recoveries end on the timeline before'
      : 'If it is lost for good: resolve --keep-aside, with its name');
  return { state: 'unusable', text: `it is incomplete (${verdict.reason}), and ${name} is not archived`, advice };
}

/** Where the first byte differs tells a person much: at once, or where a timeline left another. */
async function difference(
  server: Server,
  parsed: ParsedWalName,
  bytes: Buffer,
  reason: string,
): Promise<Finding & { state: 'different' }> {
  const state = 'different';
  try {
    const stored = await server.strategy.read(parsed.name);
    if (stored === null) return { state, text: reason };
    const { plain: here } = await server.unpacker.unpack(bytes, parsed.name);
    const there = await plainBytes(stored, parsed.name, server.keys);
    const length = Math.min(here.length, there.length);
    let at = 0;
    while (at < length && here[at] === there[at]) at += 1;
    const where = `the first difference is at byte ${at} (${here.length} bytes here, ${there.length} archived in ${stored.path})`;
    if (parsed.kind !== 'partial') return { state, text: `${reason}; ${where}` };
    // A shorter one that the archived one begins with was told before.
    const [ours, archived] = [withoutPadding(here), withoutPadding(there)];
    const isLonger = ours.length > archived.length && ours.subarray(0, archived.length).equals(archived);
    if (!isLonger) return { state, text: `${reason}; neither begins with the other: ${where}` };
    const more = `it begins with all the WAL of the archived one, up to byte ${archived.length}, and holds more, up to byte ${ours.length}`;
    return { state, text: `${reason}; ${more} (archived in ${stored.path})`, advice: LONGER };
  } catch (error) {
    return { state, text: `${reason} (${messageOf(error)})` };
  }
}

export async function resolve(
  server: Server,
  file: ErrorFile,
  finding: Finding,
  /** Null when this file was not named. */
  options: ResolveOptions | null,
): Promise<{ resolved: boolean; action: string }> {
  if (options?.keepAside === true) {
    const kept = await server.errors.keepAside(file);
    return { resolved: true, action: `kept aside as ${kept}` };
  }
  if (options?.replace === true && (finding.state === 'replaceable' || finding.state === 'different')) {
    const parsed = parseWalName(file.name);
    if (parsed !== undefined) return replaceArchived(server, file, parsed, options.force === true);
  }
  switch (finding.state) {
    case 'identical':
    case 'superfluous': {
      const { wal } = finding;
      // Durable, and with its line, before the last other copy goes.
      if (wal !== null && !(await makeSure(server, wal)))
        return { resolved: false, action: `left: ${wal} has left the archive meanwhile` };
      await server.errors.drop(file);
      return { resolved: true, action: `dropped: ${finding.text}` };
    }
    case 'archivable':
      if (options === null && finding.advice !== undefined) break;
      return archiveAgain(server, file, finding.wal);
    case 'broken':
      if (options?.asItIs !== true) break;
      await takeFileAsItIs(server, file, finding.wal);
      return archiveAgain(server, file, finding.wal);
    case 'foreign': {
      if (options?.acceptIdentity !== true) break;
      const identity = identityIn(finding.header);
      if (identity !== null) {
        await rememberBorders(server);
        await server.identity.replace(identity);
      }
      return archiveAgain(server, file, finding.wal);
    }
    case 'replaceable':
    case 'only-copy':
    case 'different':
    case 'unusable':
      break;
  }
  return { resolved: false, action: `left: ${finding.text}; ${adviceOf(finding)}` };
}

/** False when it is not in the archive any more. */
function makeSure(server: Server, wal: WalName): Promise<boolean> {
  return server.catalogue.withLock(async (session) => {
    const info = await server.strategy.makeDurable(wal);
    if (info !== null) await session.ensure([info], { thorough: true });
    return info !== null;
  });
}

async function archiveAgain(
  server: Server,
  file: ErrorFile,
  wal: WalName,
): Promise<{ resolved: boolean; action: string }> {
  const { archiver, streaming_archiver, incoming_wals_directory, streaming_wals_directory } = server.config.options;
  const inStreaming = !archiver && streaming_archiver;
  const directory = inStreaming ? streaming_wals_directory : incoming_wals_directory;
  const path = join(directory, wal);
  // Under its own name, pg_receivewal might take it for the place to go on from.
  const target = inStreaming ? claimPath(path, wal) : path;
  try {
    if (await server.errors.moveBack(file, target)) {
      return { resolved: true, action: `moved back to ${directory}, to be archived by the next pass` };
    }
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return { resolved: false, action: `left: it can not be moved to ${directory}: ${messageOf(error)}` };
  }
  return { resolved: false, action: `left: there is a ${wal} in ${directory} already; archive that first` };
}
