import { maskConninfo } from '../postgres/mask-conninfo.ts';
import { findServer, formatPlace, type Setting, type ValueSource, type WalwardenConfig } from './config.ts';
import { findOption } from './options.ts';
import { conninfo } from './values.ts';

/** One row of `show-servers`. */
export interface ShownOption {
  readonly option: string;
  /** As it stands in the files, passwords masked; null where nothing is set. */
  readonly value: string | null;
  /** `default`, `FILE:LINE`, or `same as OPTION`. */
  readonly source: string;
}

/**
 * The effective configuration of a server, by option name, for
 * `show-servers`: our options first, then what is set of those that we
 * ignore. Throws `unknown-server`.
 */
export function showServer(config: WalwardenConfig, name: string): readonly ShownOption[] {
  const server = findServer(config, name);
  const rows = (settings: Iterable<readonly [string, Setting]>): readonly ShownOption[] =>
    [...settings]
      .map(([option, { text, source }]) => ({ option, value: shown(option, text), source: sourceText(source) }))
      .sort((a, b) => (a.option < b.option ? -1 : 1));
  return [...rows(Object.entries(server.settings)), ...rows(server.ignored)];
}

function shown(option: string, text: string | null): string | null {
  return text !== null && findOption(option)?.type === conninfo ? maskConninfo(text) : text;
}

function sourceText(source: ValueSource): string {
  if (source === 'default') return source;
  return 'file' in source ? formatPlace(source) : `same as ${source.sameAs}`;
}
