import { pipeline } from 'node:stream/promises';
import { extract, type Header } from 'tar-stream';
import { depositWal, verifyDelivery, type Deposited } from '../archiver/deposit.ts';
import { receiveFile } from '../archiver/receive-file.ts';
import { findServer } from '../config/config.ts';
import { unlinkIfThere } from '../durable/durable-file.ts';
import { messageOf, WalwardenError } from '../errors.ts';
import { PATIENCE_FOR_POSTGRES } from '../server-settings.ts';
import { depositParts } from '../server-wal.ts';
import { openServer } from '../server.ts';
import { isWalName, MAX_SEGMENT_SIZE, type WalName } from '../wal/wal-name.ts';
import type { CommandContext, Report } from './command.ts';

/** A file of the stream, written and fsynced under a temporary name. */
interface Received {
  readonly name: WalName;
  readonly temporary: string;
  /** In hexadecimal, by the name of the checksum file. */
  readonly digests: Readonly<Record<SumsFile, string>>;
}

const SUMS_FILES = { SHA256SUMS: 'sha256', MD5SUMS: 'md5' } as const;
type SumsFile = keyof typeof SUMS_FILES;
const MAX_SUMS_SIZE = 1024 * 1024;

/**
 * `put-wal SERVER`: takes WAL files from a tar stream on stdin. All of them are
 * checked before the first is put in place, and are durable before this returns.
 */
export async function putWal(
  context: CommandContext,
  serverName: string,
  options: { readonly test?: boolean },
): Promise<Report> {
  const { config, logger } = context;
  const server = findServer(config, serverName);
  await using opened = openServer(config, server, logger, { patience: PATIENCE_FOR_POSTGRES });
  if (options.test === true) {
    const text = `Ready to accept WAL files for the server ${server.name}\n`;
    return { text, json: { server: server.name, ready: true } };
  }
  if (server.passive) {
    throw new WalwardenError('config', `server ${server.name} is passive: WAL goes to its primary node`);
  }
  await opened.makeDirectories();
  const parts = depositParts(opened);
  const { files, sums } = await receive(parts.incoming);
  const results: { name: WalName; deposited: Deposited }[] = [];
  try {
    checkSums(files, sums);
    for (const { name, temporary } of files) await verifyDelivery(parts, name, temporary);
    for (const { name, temporary } of files) {
      const deposited = await depositWal(parts, name, temporary, { checked: true });
      results.push({ name, deposited });
      if (deposited.outcome === 'conflict') {
        logger.error(
          { server: server.name, wal: name, inErrors: deposited.inErrors },
          `refused ${name}: ${deposited.reason}`,
        );
      } else {
        logger.info(
          { server: server.name, wal: name },
          `${deposited.outcome === 'deposited' ? 'received' : 'received again'} ${name}`,
        );
      }
    }
  } finally {
    for (const { temporary } of files) await unlinkIfThere(temporary);
  }
  const conflict = results.find(({ deposited }) => deposited.outcome === 'conflict');
  if (conflict?.deposited.outcome === 'conflict' && server.options.put_wal_conflict === 'reject') {
    throw new WalwardenError(
      'conflict',
      `${conflict.name} is there already, for server ${server.name}: ${conflict.deposited.reason}`,
      { hint: `nothing was overwritten; see: walwarden errors explain ${server.name} ${conflict.deposited.inErrors}` },
    );
  }
  return { text: '', json: results.map(({ name, deposited }) => ({ name, ...deposited })) };
}

/** Reads the stream to its end. On failure nothing is kept. */
async function receive(incoming: string): Promise<{ files: Received[]; sums: Map<SumsFile, string> }> {
  const files: Received[] = [];
  const sums = new Map<SumsFile, string>();
  const unpack = extract();
  const reading = pipeline(process.stdin, unpack);
  // The loop below sees a broken stream too; this only keeps the rejection from being nobody's.
  reading.catch(() => {});
  try {
    for await (const entry of unpack) {
      const { name, type } = entry.header;
      const bare = name.replace(/^\.\//, '');
      if (type !== 'file' && type !== 'contiguous-file') throw refused(`${JSON.stringify(name)} is no regular file`);
      if (bare === 'SHA256SUMS' || bare === 'MD5SUMS') {
        if (sums.has(bare)) throw refused(`there are two files ${bare}`);
        sums.set(bare, await readSums(entry, bare));
      } else if (!isWalName(bare)) {
        throw refused(`${JSON.stringify(name)} is not the name of a WAL file`);
      } else if (files.some((file) => file.name === bare)) {
        throw refused(`${bare} comes twice`);
      } else {
        files.push(await receiveEntry(incoming, bare, entry.header, entry));
      }
    }
    await reading;
    return { files, sums };
  } catch (error) {
    unpack.destroy();
    for (const { temporary } of files) await unlinkIfThere(temporary);
    if (error instanceof WalwardenError) throw error;
    throw refused(`the tar stream can't be read to its end: ${messageOf(error)}`, error);
  }
}

function refused(reason: string, cause?: unknown): WalwardenError {
  return new WalwardenError('invalid-wal', `put-wal refused its input: ${reason}`, {
    cause,
    hint: 'nothing was stored; expected a tar stream of WAL files with SHA256SUMS or MD5SUMS, as barman-wal-archive sends it',
  });
}

async function readSums(entry: AsyncIterable<unknown>, name: string): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of entry) {
    const bytes = Buffer.isBuffer(chunk) ? chunk : Buffer.from(String(chunk));
    size += bytes.length;
    if (size > MAX_SUMS_SIZE) throw refused(`${name} is larger than ${MAX_SUMS_SIZE} bytes`);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function receiveEntry(
  incoming: string,
  name: WalName,
  header: Header,
  entry: AsyncIterable<unknown>,
): Promise<Received> {
  const tooLarge = (): WalwardenError => refused(`${header.name} is larger than any WAL file`);
  if ((header.size ?? 0) > MAX_SEGMENT_SIZE) throw tooLarge();
  const options = { md5: true, mtime: mtimeOf(header), maxSize: MAX_SEGMENT_SIZE, tooLarge };
  const { temporary, sha256, md5 } = await receiveFile(incoming, name, entry, options);
  return { name, temporary, digests: { SHA256SUMS: sha256, MD5SUMS: md5 ?? '' } };
}

/** Seconds since the epoch; a pax header has the fraction. */
function mtimeOf(header: Header): number | null {
  const { pax, mtime } = header;
  if (typeof pax === 'object' && pax !== null && 'mtime' in pax) {
    const precise = Number(pax.mtime);
    if (Number.isFinite(precise)) return precise;
  }
  return mtime === undefined ? null : mtime.getTime() / 1000;
}

const SUM_LINE = /^([0-9a-fA-F]+) [ *](.+)$/;

/** Every file has its checksum and every checksum its file, or nothing is taken. */
function checkSums(files: readonly Received[], sums: ReadonlyMap<SumsFile, string>): void {
  if (sums.size === 0) throw refused('there is no SHA256SUMS and no MD5SUMS');
  if (files.length === 0) throw refused('there is no WAL file');
  for (const [sumsFile, text] of sums) {
    const expected = new Map<string, string>();
    for (const line of text.split('\n')) {
      if (line.trim() === '') continue;
      const [, digest, name] = SUM_LINE.exec(line.replace(/\r$/, '')) ?? [];
      if (digest === undefined || name === undefined)
        throw refused(`${sumsFile} has a line that is no checksum: ${JSON.stringify(line.slice(0, 120))}`);
      expected.set(name.replace(/^\.\//, ''), digest.toLowerCase());
    }
    for (const { name, digests } of files) {
      const digest = expected.get(name);
      if (digest === undefined) throw refused(`${sumsFile} has no checksum of ${name}`);
      if (digest !== digests[sumsFile]) {
        throw refused(`the checksum of ${name} is wrong: ${sumsFile} says ${digest}, found ${digests[sumsFile]}`);
      }
      expected.delete(name);
    }
    const [missing] = expected.keys();
    if (missing !== undefined)
      throw refused(`${sumsFile} has a checksum of ${JSON.stringify(missing)}, which did not come`);
  }
}
