import { readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { errnoOf, messageOf, WalwardenError } from '../errors.ts';
import { sharedDirectories } from './checks.ts';
import { formatPlace, suggest, type ConfigWarning, type GlobalConfig, type WalwardenConfig } from './config.ts';
import { mergeIni, parseIni, type Ini, type IniSection } from './ini.ts';
import { allowedIn } from './option.ts';
import { findOption, GLOBAL_OPTION_NAMES, KNOWN_NAMES, originOf } from './options.ts';
import { readIni, readTextIfThere } from './read-file.ts';
import { GLOBAL_SECTION, SectionReader, settingsOf, valuesOf, type Resolved } from './resolve.ts';
import { finishServer, isModel, readServer } from './server-config.ts';

/** Where a configuration is looked for, in this order: our own names, then Barman's. */
export function defaultConfigFiles(home: string = homedir()): readonly string[] {
  return [
    join(home, '.walwarden.conf'),
    '/etc/walwarden.conf',
    '/etc/walwarden/walwarden.conf',
    join(home, '.barman.conf'),
    '/etc/barman.conf',
    '/etc/barman/barman.conf',
  ];
}

/**
 * The absolute path of the configuration file: `path` when there is one, else
 * the first of {@link defaultConfigFiles} that exists. Throws `config` when
 * there is none.
 */
export async function findConfigFile(
  path?: string,
  candidates: readonly string[] = defaultConfigFiles(),
): Promise<string> {
  if (path !== undefined) return resolve(expandHome(path));
  for (const candidate of candidates) {
    try {
      await stat(candidate);
      return candidate;
    } catch (error) {
      const errno = errnoOf(error);
      // One that is there but hidden must not be passed over in silence: the next one may say something else.
      if (errno !== 'ENOENT' && errno !== 'ENOTDIR') {
        throw new WalwardenError('config', `${candidate}: can't read the configuration: ${messageOf(error)}`, {
          cause: error,
        });
      }
    }
  }
  throw new WalwardenError('config', `no configuration file: expected one of ${candidates.join(', ')}`, {
    hint: 'name one with -c FILE',
  });
}

/**
 * Reads the configuration: the main file, `configuration_files_directory`,
 * `.barman.auto.conf` and active models. Wrong options of a server become its
 * problems; throws `config` for what concerns all: files that can't be read
 * or parsed, and bad values in `[barman]` of options that only stand there.
 */
export async function loadConfig(path?: string): Promise<WalwardenConfig> {
  const file = await findConfigFile(path);
  const main = await readIni(file);
  const globalSection = main.sections.get(GLOBAL_SECTION);
  if (globalSection === undefined) {
    throw new WalwardenError('config', `${file}: expected a [barman] section, found none`);
  }
  const global = readGlobal(main);
  const included = await readIncluded(main, global);
  const ini = included.ini;
  const sections = [...ini.sections.values()].filter((section) => section.name !== GLOBAL_SECTION);
  const fixed = new Map([
    ['barman_home', global.options.barman_home],
    ['barman_lock_directory', global.options.barman_lock_directory],
  ]);

  const models = new Map<string, IniSection>();
  const drafts = [];
  const warnings: ConfigWarning[] = [...included.warnings, ...unknownOptions(ini.defaults, 'global', 'DEFAULT')];
  warnings.push(...unknownOptions(globalSection.entries, 'global', GLOBAL_SECTION));
  for (const section of sections) {
    const model = isModel(section) === true;
    if (model) models.set(section.name, section);
    warnings.push(...unknownOptions(section.entries, model ? 'model' : 'server', section.name));
  }
  for (const section of sections.filter(({ name }) => !models.has(name))) {
    drafts.push(await readServer(ini, section, fixed, models));
  }

  const shared = await sharedDirectories(drafts);
  const servers = new Map(
    drafts.map((draft) => [draft.name, finishServer(draft, shared.get(draft.name) ?? [])] as const),
  );
  warnings.push(...drafts.flatMap((draft) => draft.warnings));
  return { file, files: [file, ...included.files], global, servers, warnings };
}

function readGlobal(ini: Ini): GlobalConfig {
  const reader = new SectionReader(ini, GLOBAL_SECTION, 'global', new Map());
  const resolved = new Map<string, Resolved>(GLOBAL_OPTION_NAMES.map((name) => [name, reader.resolve(name)]));
  const [problem, ...more] = reader.problems;
  if (problem !== undefined) {
    throw new WalwardenError('config', problem.message, {
      ...(more.length > 0 && { hint: more.map(({ message }) => message).join('; ') }),
    });
  }
  const options = valuesOf(resolved, GLOBAL_OPTION_NAMES);
  if ((options.http_tls_cert_file === null) !== (options.http_tls_key_file === null)) {
    throw new WalwardenError('config', 'http_tls_cert_file and http_tls_key_file must be set both, or none of them');
  }
  return { options, settings: settingsOf(resolved, GLOBAL_OPTION_NAMES) };
}

interface Included {
  readonly ini: Ini;
  readonly files: readonly string[];
  readonly warnings: readonly ConfigWarning[];
}

/** The main file with everything that Barman adds to it. */
async function readIncluded(main: Ini, global: GlobalConfig): Promise<Included> {
  const warnings: ConfigWarning[] = [];
  const files: string[] = [];
  let ini = main;
  const add = (file: string, more: Ini): void => {
    // Barman refuses this too: what is read first would be lost on the main file's values.
    for (const [key, entry] of more.sections.get(GLOBAL_SECTION)?.entries ?? []) {
      if (main.sections.get(GLOBAL_SECTION)?.entries.get(key)?.value === entry.value) continue;
      throw new WalwardenError(
        'config',
        `${formatPlace(entry)}: expected [barman] options in the main file only, found ${key}`,
      );
    }
    files.push(file);
    ini = mergeIni(ini, more);
  };

  const setting = global.settings.configuration_files_directory;
  const directory = global.options.configuration_files_directory;
  if (directory !== null) {
    const place = typeof setting.source === 'object' && 'file' in setting.source ? setting.source : undefined;
    const names = await configFilesIn(directory);
    if (names === undefined && place !== undefined) {
      warnings.push({
        ...place,
        message: `configuration_files_directory = ${directory}: expected a directory, found none`,
      });
    }
    for (const name of names ?? []) {
      const file = join(directory, name);
      if ((await stat(file).catch(() => undefined))?.isDirectory() === true) {
        warnings.push({ file, line: 1, message: 'expected a file, found a directory' });
      } else {
        add(file, await readIni(file));
      }
    }
  }
  const auto = join(global.options.barman_home, '.barman.auto.conf');
  const text = await readTextIfThere(auto);
  if (text !== undefined) add(auto, parseIni(text, auto));
  return { ini, files, warnings };
}

async function configFilesIn(directory: string): Promise<readonly string[] | undefined> {
  try {
    const names = await readdir(directory);
    return names.filter((name) => name.endsWith('.conf') && !name.startsWith('.')).sort();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw new WalwardenError('config', `${directory}: can't read the configuration: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function unknownOptions(
  entries: IniSection['entries'],
  kind: 'global' | 'server' | 'model',
  section: string,
): readonly ConfigWarning[] {
  const warnings: ConfigWarning[] = [];
  for (const [name, { file, line }] of entries) {
    const spec = findOption(name);
    if (name === 'model' && kind !== 'global') continue;
    if (spec === undefined) {
      const similar = suggest(name, KNOWN_NAMES);
      const hint = similar === undefined ? '' : `; did you mean ${similar}?`;
      warnings.push({ file, line, message: `unknown option ${JSON.stringify(name)} in [${section}]${hint}` });
    } else if (section !== 'DEFAULT' && originOf(name) !== 'ignored' && !allowedIn(spec.scope, kind)) {
      warnings.push({ file, line, message: `${name} has no effect in [${section}]` });
    }
  }
  return warnings;
}

function expandHome(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}
