import { writeSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findPatiently } from '../archiver/find-patiently.ts';
import { peekWals, type FoundWal } from '../archiver/wal-finder.ts';
import type { CompressionName } from '../compression/codec.ts';
import { findServer } from '../config/config.ts';
import { fsyncDirectory, unlinkIfThere, writeNewFile } from '../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { PATIENCE_FOR_POSTGRES } from '../server-settings.ts';
import { finderParts } from '../server-wal.ts';
import { openServer } from '../server.ts';
import { walName, type WalName } from '../wal/wal-name.ts';
import type { CommandContext, Report } from './command.ts';

export interface GetWalOptions {
  readonly outputDirectory?: string;
  /** Recompress what is handed out. */
  readonly compression?: CompressionName;
  readonly keepCompression?: boolean;
  readonly peek?: number;
  readonly partial?: boolean;
  readonly test?: boolean;
  /** Exit status when we can't tell whether the file exists. */
  readonly onError?: number;
}

/** `get-wal SERVER WAL`: a WAL file, plain and checked, to stdout or into a directory. */
export async function getWal(
  context: CommandContext,
  serverName: string,
  wal: string | undefined,
  options: GetWalOptions,
): Promise<Report> {
  const { config, logger } = context;
  const server = findServer(config, serverName);
  if (options.test === true) {
    const text = `Ready to retrieve WAL files from the server ${server.name}\n`;
    return { text, json: { server: server.name, ready: true } };
  }
  const name = walName(wal ?? '');
  await using opened = openServer(config, server, logger, { patience: PATIENCE_FOR_POSTGRES });
  const parts = finderParts(opened);
  if (options.peek !== undefined) {
    const names = await peekWals(parts, name, options.peek, await opened.segmentSize());
    return { text: names.map((found) => `${found}\n`).join(''), json: names };
  }
  const found = await findPatiently(parts, name, options.partial === true);
  if (found === null) {
    throw new WalwardenError('wal-not-found', `WAL file ${name} is not in the archive of server ${server.name}`);
  }
  const bytes = await pack(found, options);
  if (options.outputDirectory === undefined) {
    await writeToStdout(bytes);
    logger.info({ server: server.name, wal: name, from: found.path }, `sent ${name}`);
    return { text: '', json: undefined };
  }
  const target = await writeInto(options.outputDirectory, name, bytes);
  logger.info({ server: server.name, wal: name, from: found.path, target }, `sent ${name} to ${target}`);
  return { text: '', json: { server: server.name, wal: name, path: target } };
}

async function pack(found: FoundWal, options: GetWalOptions): Promise<Buffer> {
  if (options.keepCompression === true) return found.decrypted;
  if (options.compression === undefined) return found.plain;
  const { createCompressor, isSameFormat } = await import('../compression/codecs.ts');
  // Compressing again what is compressed in the same way would give the same file.
  if (found.compression !== null && isSameFormat(found.compression, options.compression)) return found.decrypted;
  return createCompressor({ compression: options.compression }).compress(found.plain);
}

/** To the descriptor itself: setting up process.stdout takes milliseconds, and this is called for every segment. */
async function writeToStdout(bytes: Buffer): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    try {
      done += writeSync(1, bytes, done);
    } catch (cause) {
      if (errnoOf(cause) !== 'EAGAIN') {
        throw new WalwardenError('storage', `can't write to stdout: ${messageOf(cause)}`, { cause });
      }
      // A pipe that somebody made non-blocking, and that is full.
      await delay(5);
    }
  }
}

/** Never a half file under the final name: PostgreSQL would read it. */
async function writeInto(directory: string, name: WalName, bytes: Buffer): Promise<string> {
  const target = join(directory, name);
  const temporary = join(directory, `.${name}.${process.pid}.tmp`);
  try {
    await unlinkIfThere(temporary);
    await writeNewFile(temporary, bytes, { mode: 0o600 });
    try {
      await rename(temporary, target);
    } catch (error) {
      await unlinkIfThere(temporary);
      throw error;
    }
    await fsyncDirectory(directory);
  } catch (cause) {
    throw new WalwardenError('storage', `can't write ${target}: ${messageOf(cause)}`, {
      cause,
      ...(errnoOf(cause) === 'ENOENT' ? { hint: 'the output directory must exist' } : {}),
    });
  }
  return target;
}
