import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const SRC = fileURLToPath(new URL('../src', import.meta.url));

/** `import … from`, `export … from` and `import(…)` of our own modules, but for those that only bring types. */
const IMPORT = /^(?:import|export) (?!type )(\{[^}]*\}|[^;'{]*)\s*from '(\.[^']+)'|import\('(\.[^']+)'\)/gm;

function importsOf(path: string): string[] {
  return [...readFileSync(path, 'utf8').matchAll(IMPORT)].flatMap(([, names = '', fixed, lazy]) => {
    const parts = names.replaceAll(/[{}]/g, '').split(',');
    const onlyTypes =
      lazy === undefined && parts.every((part) => part.trim() === '' || part.trim().startsWith('type '));
    const specifier = fixed ?? lazy ?? '';
    return onlyTypes && names.trim() !== '*' ? [] : [join(dirname(path), specifier)];
  });
}

/** The first way from a module back to itself. */
function findCycle(graph: ReadonlyMap<string, readonly string[]>): string[] | null {
  const done = new Set<string>();
  const way: string[] = [];
  const visit = (path: string): string[] | null => {
    if (way.includes(path)) return [...way.slice(way.indexOf(path)), path];
    if (done.has(path)) return null;
    done.add(path);
    way.push(path);
    for (const next of graph.get(path) ?? []) {
      const cycle = visit(next);
      if (cycle !== null) return cycle;
    }
    way.pop();
    return null;
  };
  for (const path of graph.keys()) {
    const cycle = visit(path);
    if (cycle !== null) return cycle;
  }
  return null;
}

// A module that is loaded lazily by one of those it imports may be seen half made by whoever asks for it meanwhile.
it('no module imports itself by way of others, lazily or not', () => {
  const paths = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'));
  const graph = new Map(paths.map((path) => [join(SRC, path), importsOf(join(SRC, path))]));
  // The scan sees what it has to see.
  expect(graph.get(join(SRC, 'postgres/connection.ts'))).toContain(join(SRC, 'postgres/attempts.ts'));
  expect(findCycle(graph)?.map((path) => relative(SRC, path)) ?? null).toBeNull();
});
