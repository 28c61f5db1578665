import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeConfig } from '../support/cli.ts';
import { run } from '../support/run.ts';
import { withDaemon } from '../support/running-daemon.ts';
import { withHome } from '../support/temp-dir.ts';
import { fileOf, ROOT } from './packaged.ts';

// No engine is needed for this, and so nothing here proves that the image can be built.

/** The instructions, each on one line, without comments. */
async function instructions(): Promise<{ readonly name: string; readonly text: string }[]> {
  const lines = (await fileOf('Dockerfile')).split('\n').filter((line) => !line.trimStart().startsWith('#'));
  const joined = lines.join('\n').replaceAll(/\\\n/g, ' ').split('\n');
  return joined
    .filter((line) => line.trim() !== '')
    .map((line) => ({ name: line.split(' ', 1)[0] ?? '', text: line.slice(line.indexOf(' ') + 1).trim() }));
}

const named = async (wanted: string): Promise<string[]> =>
  (await instructions()).filter(({ name }) => name === wanted).map(({ text }) => text);

const listed = (text: string): unknown => JSON.parse(text.slice(text.indexOf('[')));

it('the image is built from a version of Node that is supported, and named in full', async () => {
  const [image = ''] = await named('ARG');
  const [, major = '', minor = ''] = /^NODE_IMAGE=node:(\d+)\.(\d+)\.\d+-bookworm-slim$/.exec(image) ?? [];
  const { engines } = JSON.parse(await fileOf('package.json'));
  const [, needed = '', neededMinor = ''] = /^>=(\d+)\.(\d+)$/.exec(engines.node) ?? [];
  expect(Number(major) * 1000 + Number(minor)).toBeGreaterThanOrEqual(Number(needed) * 1000 + Number(neededMinor));
  for (const from of await named('FROM')) expect(from).toMatch(/^\$\{NODE_IMAGE\}( AS build)?$/);
});

it('everything that is copied from here is here', async () => {
  const own = (await named('COPY')).filter((text) => !text.startsWith('--from='));
  expect(own.length).toBeGreaterThan(0);
  for (const text of own) {
    for (const source of text.split(/\s+/).slice(0, -1)) expect(existsSync(join(ROOT, source)), source).toBe(true);
  }
  const ignored = (await fileOf('.dockerignore')).split('\n').filter((line) => line !== '');
  expect(ignored.filter((path) => ['config', 'src', 'package.json', 'package-lock.json'].includes(path))).toEqual([]);
});

it('what the image runs is what package.json calls its programs', async () => {
  const { bin } = JSON.parse(await fileOf('package.json'));
  const links = [...(await fileOf('Dockerfile')).matchAll(/ln -s \/opt\/walwarden\/(\S+) \/usr\/local\/bin\/(\S+)/g)];
  expect(Object.fromEntries(links.map(([, target, name]) => [name, target]))).toEqual(bin);
});

it('PostgreSQL’s programs are of a version that one can choose, from packages with a signature', async () => {
  expect(await named('ARG')).toContainEqual(expect.stringMatching(/^PG_MAJOR=1[0-9]$/));
  const text = (await named('RUN')).join('\n');
  expect(text).toContain('"postgresql-client-${PG_MAJOR}"');
  expect(text).toMatch(/deb \[signed-by=(\S+)\] https:\/\/apt\.postgresql\.org/);
});

it('nothing runs as root, signals arrive, and the daemon is what runs', async () => {
  const users = await named('USER');
  expect(users.at(-1)).toBe('barman');
  const all = (await instructions()).map(({ name }) => name);
  expect(all.lastIndexOf('USER')).toBeGreaterThan(all.lastIndexOf('RUN'));
  expect((await named('ENTRYPOINT')).map(listed)).toEqual([['tini', '--', 'walwarden']]);
  expect((await named('CMD')).map(listed)).toEqual([['daemon']]);
  expect((await named('RUN')).join('\n')).toMatch(/\btini\b/);
});

it('the health check asks where the sample configuration lets the daemon listen', async () => {
  const [check = ''] = await named('HEALTHCHECK');
  const home = /^barman_home = (\S+)$/m.exec(await fileOf('config/walwarden.conf'))?.[1];
  expect(listed(check)).toEqual(
    expect.arrayContaining(['--unix-socket', `${home}/walwarden.sock`, 'http://localhost/livez']),
  );
  expect(await named('VOLUME')).toEqual([home]);
});

it('the health check finds a daemon well, and one that has ended not', () =>
  withHome(async ({ home }) => {
    const [check = ''] = await named('HEALTHCHECK');
    const command: string[] = JSON.parse(check.slice(check.indexOf('[')));
    const [program = '', ...args] = command.map((word) => word.replace('/var/lib/barman', home));
    const ask = (): Promise<{ readonly status: number | null }> => run(program, args, {});
    await withDaemon(await writeConfig(home), home, async () => expect((await ask()).status).toBe(0));
    expect((await ask()).status).not.toBe(0);
  }));
