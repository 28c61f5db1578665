import { closest, distance } from 'fastest-levenshtein';
import { WalwardenError } from '../errors.ts';
import type { GlobalOptionName, GlobalOptions, ServerOptionName, ServerOptions } from './options.ts';

/** A place in a configuration file; lines count from 1. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** Where a value comes from: a file, the table's default, or another option that it follows while unset. */
export type ValueSource = Place | 'default' | { readonly sameAs: string };

/** Why a server can't be used; `message` names file, line, option, value and what is allowed, as far as they apply. */
export interface ConfigProblem {
  readonly message: string;
  readonly option?: string;
  readonly place?: Place;
}

/** Something odd that harms nothing, such as an option that nobody knows. */
export interface ConfigWarning extends Place {
  readonly message: string;
}

/** An option as it stands in the files: interpolated, without quotes, null where it says nothing. */
export interface Setting {
  readonly text: string | null;
  readonly source: ValueSource;
}

export interface GlobalConfig {
  readonly options: GlobalOptions;
  readonly settings: Readonly<Record<GlobalOptionName, Setting>>;
}

export interface ServerConfig {
  readonly name: string;
  /** The option of that name: when false, nothing is archived or streamed. */
  readonly active: boolean;
  /** There are {@link problems}: commands refuse to work on this server, and `check` reports them. */
  readonly disabled: boolean;
  /** A copy of another Barman's server (`primary_ssh_command`): never archived or streamed. */
  readonly passive: boolean;
  readonly problems: readonly ConfigProblem[];
  /** The model whose values are in effect (`.active-model.auto`). */
  readonly model: string | null;
  /**
   * Typed values by Barman's own names. A bad value stands here as the
   * default, but then the server is disabled.
   */
  readonly options: ServerOptions;
  readonly settings: Readonly<Record<ServerOptionName, Setting>>;
  /** Options set in the files that we don't act on, as written. */
  readonly ignored: ReadonlyMap<string, Setting>;
}

export interface WalwardenConfig {
  /** The main file. */
  readonly file: string;
  /** Every file that was read, in order. */
  readonly files: readonly string[];
  readonly global: GlobalConfig;
  /** In the order of the files. Models are no servers. */
  readonly servers: ReadonlyMap<string, ServerConfig>;
  readonly warnings: readonly ConfigWarning[];
  /** Nothing may be written below the home: we are root there, and it is another user's. */
  readonly readOnly?: boolean;
}

/** `FILE:LINE`. */
export function formatPlace(place: Place): string {
  return `${place.file}:${place.line}`;
}

/** The name most like `word`; undefined when none is similar. */
export function suggest(word: string, candidates: readonly string[]): string | undefined {
  if (candidates.length === 0) return undefined;
  const nearest = closest(word.toLowerCase(), candidates);
  return distance(word.toLowerCase(), nearest) <= Math.max(2, Math.floor(word.length / 3)) ? nearest : undefined;
}

/**
 * The server of that name, disabled ones included. Throws `unknown-server`,
 * with the most similar name as hint.
 */
export function findServer(config: WalwardenConfig, name: string): ServerConfig {
  const server = config.servers.get(name);
  if (server !== undefined) return server;
  const names = [...config.servers.keys()];
  const similar = suggest(name, names);
  throw new WalwardenError('unknown-server', `unknown server ${JSON.stringify(name)} in ${config.file}`, {
    hint:
      similar === undefined
        ? `configured servers: ${names.length === 0 ? 'none' : names.join(', ')}`
        : `did you mean ${JSON.stringify(similar)}?`,
  });
}
