import { describe, expect, expectTypeOf, it } from 'vitest';
import { IGNORED_OPTIONS } from '../../src/config/ignored-options.ts';
import {
  findOption,
  GLOBAL_OPTION_NAMES,
  KNOWN_NAMES,
  OPTIONS,
  originOf,
  SERVER_OPTION_NAMES,
  type GlobalOptions,
  type ServerOptions,
} from '../../src/config/options.ts';

describe('the options table', () => {
  it.each(KNOWN_NAMES)('describes %s in one sentence, and its default is a valid value', (name) => {
    const spec = findOption(name);
    expect(spec?.description).toMatch(/^\S.*\.$/);
    expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
    const text = spec?.default?.replace(/%\(\w+\)s/g, '/x') ?? null;
    if (text !== null) expect(spec?.type.parse(name === 'http_listen' ? 'unix:/x' : text)).toBeDefined();
  });

  it('has no option twice', () => {
    expect(new Set(KNOWN_NAMES).size).toBe(KNOWN_NAMES.length);
    expect(KNOWN_NAMES.length).toBe(Object.keys(OPTIONS).length + Object.keys(IGNORED_OPTIONS).length);
  });

  it('divides options into those of [barman], those of servers, and the mark of a model', () => {
    expect([...GLOBAL_OPTION_NAMES, ...SERVER_OPTION_NAMES, 'model'].sort()).toEqual(Object.keys(OPTIONS).sort());
    expect(GLOBAL_OPTION_NAMES).toContain('barman_home');
    expect(SERVER_OPTION_NAMES).toContain('compression');
  });

  it('knows who invented an option', () => {
    expect(originOf('archiver')).toBe('barman');
    expect(originOf('archiver_workers')).toBe('walwarden');
    expect(originOf('reuse_backup')).toBe('ignored');
    expect(originOf('toString')).toBeUndefined();
  });

  it('gives every value its type', () => {
    expectTypeOf<ServerOptions['archiver']>().toEqualTypeOf<boolean>();
    expectTypeOf<ServerOptions['wals_directory']>().toEqualTypeOf<string>();
    expectTypeOf<ServerOptions['slot_name']>().toEqualTypeOf<string | null>();
    expectTypeOf<ServerOptions['path_prefix']>().toEqualTypeOf<readonly string[] | null>();
    expectTypeOf<ServerOptions['archiver_workers']>().toEqualTypeOf<number>();
    expectTypeOf<ServerOptions['put_wal_conflict']>().toEqualTypeOf<'reject' | 'accept'>();
    expectTypeOf<ServerOptions['compression_level']>().toEqualTypeOf<number | 'low' | 'medium' | 'high'>();
    expectTypeOf<GlobalOptions['barman_home']>().toEqualTypeOf<string>();
  });
});
