import { describe, expect, it } from 'vitest';
import { SpareBuffers } from '../../src/storage/spare-buffers.ts';

const MIB = 1024 * 1024;

describe('spare buffers', () => {
  it('gives out again what was given back', () => {
    const spare = new SpareBuffers(2);
    const first = spare.take(MIB);
    expect(first.byteLength).toBe(MIB);
    expect(spare.take(MIB)).not.toBe(first);
    expect(spare.give(first)).toBe(true);
    expect(spare.take(MIB)).toBe(first);
  });

  it('keeps no more than it was told', () => {
    const spare = new SpareBuffers(1);
    const [first, second] = [spare.take(MIB), spare.take(MIB)];
    expect(spare.give(first)).toBe(true);
    expect(spare.give(second)).toBe(false);
  });

  it('keeps one size at a time', () => {
    const spare = new SpareBuffers(2);
    const [first, second] = [spare.take(MIB), spare.take(MIB)];
    spare.give(first);
    expect(spare.take(2 * MIB).byteLength).toBe(2 * MIB);
    expect(spare.give(second)).toBe(false);
    expect(spare.take(MIB)).not.toBe(first);
  });

  it('does not care for small ones, which come in between', () => {
    const spare = new SpareBuffers(2);
    const large = spare.take(MIB);
    spare.give(large);
    const small = spare.take(100);
    expect(small.byteLength).toBe(100);
    expect(spare.give(small)).toBe(false);
    expect(spare.take(MIB)).toBe(large);
  });

  it('keeps nothing once it is cleared', () => {
    const spare = new SpareBuffers(2);
    const large = spare.take(MIB);
    spare.give(large);
    spare.clear();
    expect(spare.take(MIB)).not.toBe(large);
  });
});
