import { join } from 'node:path';
import { WalwardenError } from '../errors.ts';
import { badServerName, contradictions, type CheckedServer } from './checks.ts';
import { type ConfigProblem, type ConfigWarning, type Place, type ServerConfig, type Setting } from './config.ts';
import type { Ini, IniSection } from './ini.ts';
import { meaningOf } from './interpolate.ts';
import { allowedIn } from './option.ts';
import { findOption, originOf, SERVER_OPTION_NAMES, type ServerOptionName } from './options.ts';
import { readTextIfThere } from './read-file.ts';
import { SectionReader, settingsOf, valuesOf, type Resolved } from './resolve.ts';
import { boolean, isS3Location } from './values.ts';

/** A server before it was compared with the others. */
export interface ServerDraft extends CheckedServer {
  readonly model: string | null;
  readonly problems: readonly ConfigProblem[];
  readonly warnings: readonly ConfigWarning[];
  readonly ignored: ReadonlyMap<string, Setting>;
}

/** Whether a section is a model: a set of values for servers of its cluster. Undefined when it says neither yes nor no. */
export function isModel(section: IniSection): boolean | undefined {
  const text = meaningOf(section.entries.get('model')?.value ?? '');
  return text === null ? false : boolean.parse(text);
}

/** Everything that a server's own section, its active model and `[barman]` say. */
export async function readServer(
  ini: Ini,
  section: IniSection,
  fixed: ReadonlyMap<string, string>,
  models: ReadonlyMap<string, IniSection>,
): Promise<ServerDraft> {
  const { name, file, line } = section;
  const reader = new SectionReader(ini, name, 'server', new Map([...fixed, ['name', name]]));
  const resolved = new Map<string, Resolved>(SERVER_OPTION_NAMES.map((option) => [option, reader.resolve(option)]));
  const problems: ConfigProblem[] = [];
  const warnings: ConfigWarning[] = [];
  const badName = badServerName(name);
  if (badName !== undefined) {
    problems.push({
      message: `${file}:${line}: [${JSON.stringify(name).slice(1, -1)}]: ${badName}`,
      place: { file, line },
    });
  }

  if (isModel(section) === undefined) {
    problems.push({
      message: `${file}:${line}: [${name}]: model: expected ${boolean.expected}`,
      option: 'model',
      place: { file, line },
    });
  }

  // Barman settles this one before the model comes into play.
  follow(resolved, 'streaming_conninfo', 'conninfo', (setting) => setting.section === undefined);
  const model =
    badName === undefined ? await activeModel(resolved, models, { file, line }, name) : { warnings: [], problems: [] };
  warnings.push(...model.warnings);
  problems.push(...model.problems);
  if (model.name !== undefined) {
    problems.push(...applyModel(ini, model.name, fixed, resolved));
  }
  const unset = (setting: Resolved): boolean => setting.value === null;
  const walConninfo = unset(get(resolved, 'wal_streaming_conninfo')) ? 'conninfo' : 'wal_streaming_conninfo';
  follow(resolved, 'wal_conninfo', walConninfo, unset);
  follow(resolved, 'wal_streaming_conninfo', 'streaming_conninfo', unset);
  catalogueBesideArchive(resolved);

  const passive = get(resolved, 'primary_ssh_command').value !== null;
  if (!passive && get(resolved, 'archiver').value === false && get(resolved, 'streaming_archiver').value === false) {
    // Barman's rule since 2.0, for configurations that are older than the option.
    resolved.set('archiver', { ...get(resolved, 'archiver'), text: 'on', value: true });
    warnings.push({
      file,
      line,
      message: `[${name}]: archiver and streaming_archiver are both off: archiver is taken as on; say archiver = on, or active = false`,
    });
  }

  const draft = { name, place: { file, line }, passive, options: valuesOf(resolved, SERVER_OPTION_NAMES), resolved };
  const bad = [...problems, ...reader.problems];
  // Contradictions between values that are wrong by themselves would only confuse.
  if (bad.length === 0) bad.push(...contradictions(draft));
  return { ...draft, model: model.name ?? null, problems: bad, warnings, ignored: ignoredSettings(section) };
}

/** The finished record, with what a comparison of all servers brought up. */
export function finishServer(draft: ServerDraft, shared: readonly ConfigProblem[]): ServerConfig {
  const problems = [...draft.problems, ...shared];
  return {
    name: draft.name,
    active: draft.options.active,
    disabled: problems.length > 0,
    passive: draft.passive,
    problems,
    model: draft.model,
    options: draft.options,
    settings: settingsOf(draft.resolved, SERVER_OPTION_NAMES),
    ignored: draft.ignored,
  };
}

interface ActiveModel {
  readonly name?: string;
  readonly warnings: readonly ConfigWarning[];
  readonly problems: readonly ConfigProblem[];
}

/** The model that `barman config-switch` made active; as in Barman, one that doesn't fit is told and left out. */
async function activeModel(
  resolved: ReadonlyMap<string, Resolved>,
  models: ReadonlyMap<string, IniSection>,
  place: Place,
  server: string,
): Promise<ActiveModel> {
  const directory = String(get(resolved, 'backup_directory').value);
  const file = join(directory, '.active-model.auto');
  let name: string | undefined;
  try {
    // A relative backup_directory is a problem of its own: nothing is read relative to where we happen to run.
    name = directory.startsWith('/') ? (await readTextIfThere(file))?.trim() : undefined;
  } catch (error) {
    if (!(error instanceof WalwardenError)) throw error;
    const advice = error.hint === undefined ? '' : `; ${error.hint}`;
    return { warnings: [], problems: [{ message: error.message + advice, place }] };
  }
  if (name === undefined || name === '') return { warnings: [], problems: [] };
  const warn = (message: string): ActiveModel => ({ warnings: [{ file, line: 1, message }], problems: [] });
  const model = models.get(name);
  if (model === undefined) {
    return warn(
      `the active model ${JSON.stringify(name)} of server ${JSON.stringify(server)} doesn't exist: not applied`,
    );
  }
  const theirs = meaningOf(model.entries.get('cluster')?.value ?? '');
  const ours = String(get(resolved, 'cluster').value);
  if (theirs !== ours) {
    return warn(
      `the active model ${JSON.stringify(name)} is for cluster ${JSON.stringify(theirs)}, server ${JSON.stringify(server)} is of ${JSON.stringify(ours)}: not applied`,
    );
  }
  return { name, warnings: [], problems: [] };
}

function applyModel(
  ini: Ini,
  model: string,
  fixed: ReadonlyMap<string, string>,
  resolved: Map<string, Resolved>,
): readonly ConfigProblem[] {
  const reader = new SectionReader(ini, model, 'model', new Map([...fixed, ['name', model]]));
  for (const option of SERVER_OPTION_NAMES) {
    const spec = findOption(option);
    if (option === 'cluster' || spec === undefined || !allowedIn(spec.scope, 'model')) continue;
    const override = reader.override(option);
    if (override !== undefined) resolved.set(option, override);
  }
  return reader.problems;
}

/** An option that takes over another one's value. */
function follow(
  resolved: Map<string, Resolved>,
  option: ServerOptionName,
  other: ServerOptionName,
  when: (setting: Resolved) => boolean,
): void {
  if (!when(get(resolved, option))) return;
  const { text, value } = get(resolved, other);
  resolved.set(option, { text, value, source: { sameAs: other }, section: undefined });
}

/** The catalogue is in the archive, or, when that is a bucket, where the archive would be by default. */
function catalogueBesideArchive(resolved: Map<string, Resolved>): void {
  if (get(resolved, 'xlogdb_directory').value !== null) return;
  const wals = String(get(resolved, 'wals_directory').value);
  if (!isS3Location(wals)) {
    follow(resolved, 'xlogdb_directory', 'wals_directory', () => true);
    return;
  }
  const path = join(String(get(resolved, 'backup_directory').value), 'wals');
  resolved.set('xlogdb_directory', { text: path, value: path, source: 'default', section: undefined });
}

function ignoredSettings(section: IniSection): ReadonlyMap<string, Setting> {
  const settings = new Map<string, Setting>();
  for (const [name, { value, file, line }] of section.entries) {
    // As written: nothing depends on it, so nothing in it can be a problem.
    if (originOf(name) === 'ignored') settings.set(name, { text: meaningOf(value), source: { file, line } });
  }
  return settings;
}

function get(resolved: ReadonlyMap<string, Resolved>, option: ServerOptionName): Resolved {
  const setting = resolved.get(option);
  if (setting === undefined) throw new WalwardenError('internal', `option ${option} was not resolved`);
  return setting;
}
