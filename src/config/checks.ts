import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf } from '../errors.ts';
import { formatPlace, type ConfigProblem, type Place, type Setting } from './config.ts';
import type { ServerOptionName, ServerOptions } from './options.ts';
import { GLOBAL_SECTION, type Resolved } from './resolve.ts';
import { isS3Location } from './values.ts';

/** What the checks look at. */
export interface CheckedServer {
  readonly name: string;
  readonly place: Place;
  readonly passive: boolean;
  readonly options: ServerOptions;
  readonly resolved: ReadonlyMap<string, Resolved>;
}

/** Why a section can't be a server's, undefined when it can: its name becomes part of paths, lock files and object keys. */
export function badServerName(name: string): string | undefined {
  if (name === 'all') return `the name "all" stands for every server`;
  if (name === '.' || name === '..' || /[/\\]/.test(name))
    return 'a server name must not contain a slash, nor be . or ..';
  // Everything that would break a line of a log, of a list or of the catalogue.
  if (/[\p{Cc}\u2028\u2029]/u.test(name)) return 'a server name must not contain control characters';
  // File names end at 255 bytes, and ours have up to 20 around the server's.
  return Buffer.byteLength(name) > 200 ? 'a server name must not be longer than 200 bytes' : undefined;
}

/** Options of one server that contradict each other. */
export function contradictions(server: CheckedServer): readonly ConfigProblem[] {
  const { options } = server;
  const problems: ConfigProblem[] = [];
  const report = (option: ServerOptionName, message: string): void => {
    problems.push(problemAt(server, option, message));
  };

  if (options.compression === 'custom') {
    if (options.custom_compression_filter === null)
      report('compression', 'compression = custom needs custom_compression_filter');
    if (options.custom_decompression_filter === null) {
      report('compression', 'compression = custom needs custom_decompression_filter');
    }
  }
  const magic = options.custom_compression_magic;
  // Encrypted pages and what a filter writes look alike: then a size would have to tell one from the other.
  if (!options.verify_wal_header && options.compression === 'custom' && (magic === null || magic.length === 0)) {
    report(
      'compression',
      'compression = custom with verify_wal_header = off needs custom_compression_magic: where WAL headers are not read, nothing else tells ' +
        'a compressed file from a plain one; set it to what custom_compression_filter writes first, or choose another compression',
    );
  }
  if (magic !== null && beginsLikeWal(magic)) {
    report(
      'custom_compression_magic',
      `custom_compression_magic = 0x${Buffer.from(magic).toString('hex')} is how WAL itself begins, so that nothing tells a plain file from a compressed one: ` +
        'set it to what custom_compression_filter writes first, or remove it',
    );
  }
  const level = server.resolved.get('compression_level');
  // A level in [barman] is meant for the servers whose algorithm has one.
  if (options.compression === 'snappy' && isSet(level) && level?.section !== GLOBAL_SECTION) {
    report('compression_level', 'compression = snappy has no levels: remove compression_level');
  }
  if (options.encryption === 'gpg' && options.encryption_key_id === null) {
    report('encryption', 'encryption = gpg needs encryption_key_id');
  }
  if (isS3Location(options.wals_directory) && (options.compression === 'pigz' || options.compression === 'custom')) {
    report(
      'compression',
      `compression = ${options.compression} can't be used with wals_directory = ${options.wals_directory}: it can't compress in memory`,
    );
  }
  if (options.aws_sse_kms_key_id !== null && options.aws_encryption !== 'aws:kms') {
    report('aws_sse_kms_key_id', 'aws_sse_kms_key_id needs aws_encryption = aws:kms');
  }
  if (options.streaming_archiver && !server.passive) {
    if (options.streaming_conninfo === null && options.wal_streaming_conninfo === null) {
      report('streaming_archiver', 'streaming_archiver = on needs streaming_conninfo or conninfo');
    }
    // Without a slot and without archive_command, PostgreSQL keeps nothing for a receiver that is down.
    if (!options.archiver && options.slot_name === null) {
      report('streaming_archiver', 'streaming_archiver = on without archiver = on needs slot_name');
    }
  }
  return problems;
}

/** The magic number of a WAL page, in either byte order; that of PostgreSQL 10 and all since (access/xlog_internal.h). */
function beginsLikeWal([first, second]: Uint8Array): boolean {
  const high = [0xd0, 0xd1];
  return second !== undefined && (high.includes(second) || (first !== undefined && high.includes(first)));
}

const DIRECTORIES = [
  'backup_directory',
  'errors_directory',
  'incoming_wals_directory',
  'streaming_wals_directory',
  'wals_directory',
] as const satisfies readonly ServerOptionName[];

/** Directories that are one and the same, symbolic links followed; told to every server concerned, by name. */
export async function sharedDirectories(
  servers: readonly CheckedServer[],
): Promise<ReadonlyMap<string, readonly ConfigProblem[]>> {
  const cache = new Map<string, Promise<string>>();
  const users = new Map<
    string,
    { readonly server: CheckedServer; readonly option: ServerOptionName; readonly path: string }[]
  >();
  for (const server of servers) {
    for (const option of DIRECTORIES) {
      const path = server.options[option];
      // In a bucket every server has a prefix of its own.
      if (isS3Location(path)) continue;
      const real = await realPathOf(path, cache);
      users.set(real, [...(users.get(real) ?? []), { server, option, path }]);
    }
  }
  const problems = new Map<string, ConfigProblem[]>();
  for (const group of users.values()) {
    const [first, ...others] = group;
    if (first === undefined) continue;
    for (const other of others) {
      const sides =
        other.server === first.server
          ? [[other, first] as const]
          : ([
              [other, first],
              [first, other],
            ] as const);
      for (const [mine, theirs] of sides) {
        const whose = mine.server === theirs.server ? '' : ` of server ${JSON.stringify(theirs.server.name)}`;
        const message = `${mine.option} = ${mine.path} is the same directory as ${theirs.option}${whose}`;
        const list = problems.get(mine.server.name) ?? [];
        list.push(problemAt(mine.server, mine.option, message));
        problems.set(mine.server.name, list);
      }
    }
  }
  return problems;
}

/** The place of a setting in a file, undefined for defaults. */
export function placeOfSetting(setting: Setting | undefined): Place | undefined {
  const source = setting?.source;
  return typeof source === 'object' && 'file' in source ? source : undefined;
}

function isSet(setting: Resolved | undefined): boolean {
  return setting !== undefined && setting.section !== undefined && setting.text !== null;
}

function problemAt(server: CheckedServer, option: ServerOptionName, message: string): ConfigProblem {
  const place = placeOfSetting(server.resolved.get(option)) ?? server.place;
  return { message: `${formatPlace(place)}: ${message}`, option, place };
}

/** Like Python's realpath: what doesn't exist yet is taken as it is written. */
function realPathOf(path: string, cache: Map<string, Promise<string>>): Promise<string> {
  const known = cache.get(path);
  if (known !== undefined) return known;
  const found = (async () => {
    try {
      return await realpath(path);
    } catch (error) {
      // Whatever hides the directory will be told by those who use it.
      if (errnoOf(error) === undefined) throw error;
      const parent = dirname(path);
      return parent === path ? path : join(await realPathOf(parent, cache), basename(path));
    }
  })();
  cache.set(path, found);
  return found;
}
