// node config/complete-lockfile.js: adds to package-lock.json the optional packages of other platforms that npm left out.
//
// Where the registry at hand doesn't have them, `npm install` writes a lock file without them, and `npm ci` then refuses
// that file. An entry with version, os and cpu is all that npm ci needs to pass them over.
import { readFileSync, writeFileSync } from 'node:fs';

const FILE = new URL('../package-lock.json', import.meta.url);
const OS = ['android', 'darwin', 'freebsd', 'linux', 'win32', 'openbsd', 'openharmony', 'aix', 'sunos', 'netbsd'];
const CPU = ['arm64', 'arm', 'x64', 'ia32', 'ppc64', 'riscv64', 's390x', 'loong64', 'wasm32', 'mips64el'];

const lock = JSON.parse(readFileSync(FILE, 'utf8'));
const { '': root, ...packages } = lock.packages;
for (const { optionalDependencies = {}, dev } of Object.values(packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const path = `node_modules/${name}`;
    const words = name.split('/').pop().split('-');
    const os = OS.find((word) => words.includes(word));
    const cpu = CPU.find((word) => words.includes(word));
    if (packages[path] !== undefined || os === undefined || cpu === undefined) continue;
    const libc = words.some((word) => word.startsWith('gnu'))
      ? ['glibc']
      : words.some((word) => word.startsWith('musl'))
        ? ['musl']
        : undefined;
    packages[path] = { version, cpu: [cpu], ...(dev && { dev }), optional: true, os: [os], ...(libc && { libc }) };
  }
}
const sorted = Object.entries(packages).sort(([a], [b]) => a.localeCompare(b, 'en'));
lock.packages = { '': root, ...Object.fromEntries(sorted) };
writeFileSync(FILE, `${JSON.stringify(lock, null, 2)}\n`);
