import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { interpolate, meaningOf, type Variable } from '../../src/config/interpolate.ts';
import { WalwardenError } from '../../src/errors.ts';

const VARIABLES = new Map<string, Variable>([
  ['name', { value: '100%' }],
  ['home', { name: 'home', text: '"/var/%(name)s"', where: 'f:1: home' }],
  ['a', { name: 'a', text: '%(b)s', where: 'f:2: a' }],
  ['b', { name: 'b', text: '%(a)s', where: 'f:3: b' }],
]);

const expand = (text: string): string =>
  interpolate({ name: 'option', text, where: 'f:9: option' }, (name) => VARIABLES.get(name));

describe('interpolate', () => {
  it('replaces names by their values, over and over, whatever their case', () => {
    expect(expand('%(HOME)s/wals')).toBe('/var/100%/wals');
  });

  it('makes one percent sign of two', () => {
    expect(expand('100%% %%(home)s')).toBe('100% %(home)s');
  });

  it.each([
    ['%(nope)s', 'f:9: option: %(nope)s is not set'],
    ['%(a)s', 'f:3: b: %(a)s refers to itself'],
    ['100%', 'f:9: option: expected %(name)s or %%'],
    ['%(name)', 'f:9: option: expected %(name)s or %%'],
    ['%d', 'expected %(name)s or %%'],
    ['%(option)s', 'f:9: option: %(option)s refers to itself: option -> option'],
  ])('refuses %j and says where', (text, message) => {
    expect(() => expand(text)).toThrow(message);
  });

  it('expands each name once, though names that name each other twice stand for a lot', () => {
    const doubling = (name: string): Variable => {
      const level = Number(name.slice(1));
      return { name, text: level === 0 ? '' : `%(v${level - 1})s%(v${level - 1})s`, where: `f:${level}: ${name}` };
    };
    expect(interpolate({ name: 'option', text: '%(v60)s', where: 'f:9: option' }, doubling)).toBe('');
  });

  it('refuses more levels than a configuration needs, long before the stack ends', () => {
    const chain = (name: string): Variable => {
      const level = Number(name.slice(1));
      return { name, text: level === 0 ? 'end' : `%(v${level - 1})s`, where: `f:${level}: ${name}` };
    };
    const of = (levels: number): string =>
      interpolate({ name: 'option', text: `%(v${levels})s`, where: 'f:9: option' }, chain);
    expect(of(99)).toBe('end');
    expect(() => of(3_000)).toThrow('expected at most 100 options that refer to each other');
  });

  it('says where a percent sign stands alone, and not what is around it: it may be a password', () => {
    expect(() => expand('postgresql://me:s%65cret@pg/db')).toThrow(
      'f:9: option: expected %(name)s or %% after a percent sign, found something else at character 18',
    );
  });

  it('names the way round a cycle', () => {
    expect(() => expand('%(a)s')).toThrow('refers to itself: option -> a -> b -> a');
  });

  it('throws nothing but WalwardenError, whatever the text', () => {
    const piece = fc.constantFrom('%', '%%', '%(', ')s', '%(home)s', '%(a)s', '%(x)s', 'x', '\n');
    fc.assert(
      fc.property(fc.array(piece), (pieces) => {
        try {
          expand(pieces.join(''));
        } catch (error) {
          expect(error).toBeInstanceOf(WalwardenError);
        }
      }),
    );
  });

  it('ends where values double without end', () => {
    const doubling = (name: string): Variable => {
      const level = Number(name.slice(1));
      const text = level === 0 ? 'x'.repeat(1000) : `%(v${level - 1})s%(v${level - 1})s`;
      return { name, text, where: name };
    };
    expect(() => interpolate({ name: 'top', text: '%(v15)s', where: 'f:1' }, doubling)).toThrow('after interpolation');
  });
});

describe('meaningOf', () => {
  it.each([
    ['', null],
    ['None', null],
    ['none', null],
    ['"None"', null],
    ['""', null],
    ['"a b"', 'a b'],
    [`'a"`, `'a"`],
    ['  a  ', 'a'],
    ['"', '"'],
  ])('of %j is %j', (text, meaning) => {
    expect(meaningOf(text)).toBe(meaning);
  });
});
