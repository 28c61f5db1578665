import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CLI, ensureBuilt } from '../support/cli.ts';
import { withPostgres, type TestPostgres } from '../support/postgres.ts';
import { reachableCli } from '../support/reachable-cli.ts';
import { run, type RunResult } from '../support/run.ts';
import { describeS3 } from '../support/s3.ts';
import { withoutAws, type S3Endpoint } from '../support/s3-endpoint.ts';
import { segmentsIn } from './postgres-archive.ts';
import { keysIn, PATIENCE_MS, rowsOf, writeRow } from './s3-archive.ts';
import { KEY, PASSPHRASE, withKeyring } from './with-keyring.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The indented blocks of a section of a document, in order. */
async function blocksOf(title: string, document = 'README.md'): Promise<string[]> {
  const text = await readFile(join(ROOT, document), 'utf8');
  const section = text.split(/^## /m).find((part) => part.startsWith(`${title}\n`));
  if (section === undefined) throw new Error(`${document} has no section ${title}`);
  const blocks = section.match(/(?:^ {4}.*\n(?:\n(?= {4}))?)+/gm) ?? [];
  return blocks.map((lines) => lines.replace(/^ {4}/gm, ''));
}

/** The one block that begins with this. */
async function block(beginning: string, index = 0): Promise<string> {
  const found = (await blocksOf('Store WAL in S3')).filter((text) => text.startsWith(beginning))[index];
  if (found === undefined) throw new Error(`the README's section on S3 has no block that begins with ${beginning}`);
  return found;
}

/** A user who has installed walwarden, does what the README says, and finds everything at other places. */
class Reader {
  readonly pg: TestPostgres;
  readonly home: string;
  readonly #endpoint: S3Endpoint;
  /** Of every command, PostgreSQL's own included. */
  readonly env: NodeJS.ProcessEnv;

  private constructor(pg: TestPostgres, endpoint: S3Endpoint, home: string, env: NodeJS.ProcessEnv) {
    this.pg = pg;
    this.#endpoint = endpoint;
    this.home = home;
    this.env = env;
  }

  static async create(pg: TestPostgres, endpoint: S3Endpoint, variables: Record<string, string>): Promise<Reader> {
    await ensureBuilt();
    const home = await pg.makeDirectory(join(pg.directory, 'home'));
    const bin = join(pg.directory, 'bin');
    const { node, cli } = await reachableCli(dirname(dirname(CLI)), pg.owner, pg.directory);
    await mkdir(bin);
    await writeFile(join(bin, 'walwarden'), `#!/bin/sh\nexec ${node} ${cli} "$@"\n`, { mode: 0o755 });
    const path = `${bin}:${process.env['PATH'] ?? ''}`;
    return new Reader(pg, endpoint, home, { ...withoutAws(process.env), HOME: home, PATH: path, ...variables });
  }

  /** The README's words with our places for its. */
  adapted(text: string): string {
    return text
      .replaceAll('/var/lib/barman', this.home)
      .replaceAll('my-wal-bucket', this.#endpoint.bucket)
      .replaceAll('https://s3.example.com', this.#endpoint.url)
      .replaceAll('host=pg user=barman dbname=postgres', this.pg.conninfo);
  }

  async writeAtHome(name: string, text: string): Promise<void> {
    const path = join(this.home, name);
    await this.pg.makeDirectory(dirname(path));
    await writeFile(path, text, { mode: 0o600 });
    await this.pg.giveToServer(path);
  }

  async configure(server: string): Promise<void> {
    await this.writeAtHome('.walwarden.conf', this.adapted(`[barman]\nbarman_home = /var/lib/barman\n\n${server}`));
  }

  /** Types a block into a shell; a command that fails ends it. */
  async type(commands: string): Promise<RunResult> {
    const options = { ...this.pg.owner, cwd: this.home, env: this.env, timeoutMs: PATIENCE_MS };
    const result = await run('/bin/sh', ['-e', '-c', this.adapted(commands)], options);
    expect(result.status, `${commands}${result.stdout}${result.stderr}`).toBe(0);
    return result;
  }

  /** PostgreSQL runs restore_command in its own environment: the command brings ours along. */
  restoreCommand(line: string): string {
    const command = /^restore_command = '(.*)'$/.exec(line)?.[1];
    if (command === undefined) throw new Error(`no restore_command: ${line}`);
    const names = ['HOME', 'PATH', ...Object.keys(this.env).filter((name) => name.startsWith('AWS_'))];
    const variables = names.map((name) => `${name}="${this.env[name] ?? ''}"`).join(' ');
    return `env -i ${variables} sh -c "${this.adapted(command)}"`;
  }
}

/** A PostgreSQL that archives as the README has it, and who reads the README. */
function withReader<T>(
  endpoint: S3Endpoint,
  variables: Record<string, string>,
  server: string,
  body: (reader: Reader) => Promise<T>,
): Promise<T> {
  return withPostgres({ start: false }, async (pg) => {
    const reader = await Reader.create(pg, endpoint, variables);
    await reader.configure(server);
    // What PostgreSQL writes into is there before the first pass, which would make it.
    for (const path of ['main', 'main/incoming']) await pg.makeDirectory(join(reader.home, path));
    const commands = (await blocksOf('archive_command and restore_command')).join('\n');
    const archiveCommand = /^archive_command = '(cp .*)'$/m.exec(commands)?.[1];
    if (archiveCommand === undefined) throw new Error('the README has no archive_command with cp');
    await pg.configure({ archive_mode: 'on', archive_command: reader.adapted(archiveCommand), wal_keep_size: '1GB' });
    await pg.start();
    return await body(reader);
  });
}

/** The commands of the section, and what they say. */
async function tryOut(reader: Reader): Promise<void> {
  const { stdout } = await reader.type(await block('walwarden switch-wal'));
  expect(stdout).toMatch(/The WAL file [0-9A-F]{24} of server 'main' has been archived/);
  expect(stdout).toContain('continuous archiving: OK');
  expect(stdout).not.toContain('FAILED');
  expect(stdout).toContain('zstd');
}

async function restoreCommands(): Promise<string[]> {
  return (await block('restore_command')).trimEnd().split('\n');
}

describeS3(
  'the README’s section on S3, as it is written',
  (s3) => {
    test('on AWS: the region, and a profile of ~/.aws', () =>
      s3.withBucket(async (endpoint) => {
        // The one thing that is not as on AWS.
        const variables = { AWS_ENDPOINT_URL_S3: endpoint.url };
        const server = await block('[main]');
        expect(server).toContain('aws_profile = walwarden\n');
        await withReader(endpoint, variables, server, async (reader) => {
          const { accessKeyId, secretAccessKey } = endpoint;
          await reader.writeAtHome(
            '.aws/credentials',
            `[walwarden]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
          );
          await tryOut(reader);
          expect((await keysIn(endpoint))[0]).toMatch(
            /^postgres\/main\/wals\/0000000100000000\/00000001000000000000000[0-9A-F]\.zst$/,
          );
        });
      }));

    test('on another service: recovery by get-wal, a lost catalogue, recovery by Barman’s client', () =>
      s3.withBucket(async (endpoint) => {
        const { accessKeyId, secretAccessKey } = endpoint;
        const variables = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
        const server = await block('[main]', 1);
        expect(server).toContain('aws_endpoint_url = https://s3.example.com\n');
        await withReader(endpoint, variables, server, async (reader) => {
          const { pg } = reader;
          const [byGetWal = '', byBarman = '', ...more] = await restoreCommands();
          expect(more).toEqual([]);
          await tryOut(reader);
          await writeRow(pg, '1');
          const backup = await pg.baseBackup();
          // Its client knows no zstd.
          await reader.configure(server.replace('compression = zstd', 'compression = gzip'));
          await writeRow(pg, '2');
          await writeRow(pg, '3');
          await reader.type('walwarden archive-wal main');
          await pg.kill9();

          const catalogue = join(reader.home, 'main', 'wals', 'main-xlog.db');
          const before = await readFile(catalogue, 'utf8');
          await writeFile(catalogue, '');
          await reader.type(await block('walwarden rebuild-xlogdb'));
          expect(await readFile(catalogue, 'utf8')).toBe(before);

          for (const line of [byGetWal, byBarman]) {
            const restored = await pg.restore(backup, { restoreCommand: reader.restoreCommand(line) });
            await restored.writable(PATIENCE_MS);
            expect(await rowsOf(restored)).toEqual(['1', '2', '3']);
            await restored.kill9();
          }
        });
      }));

    test('an archive that was local moves into the bucket, and get-wal finds its files all the time', () =>
      s3.withBucket(async (endpoint) => {
        const { accessKeyId, secretAccessKey } = endpoint;
        const variables = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
        const local = '[main]\narchiver = on\nconninfo = host=pg user=barman dbname=postgres\n';
        await withReader(endpoint, variables, local, async (reader) => {
          const { pg } = reader;
          await writeRow(pg, '1');
          await reader.type('walwarden archive-wal main');
          await reader.configure(`${local}compression = gzip\n`);
          const backup = await pg.baseBackup();
          const last = await writeRow(pg, '2');
          await reader.type('walwarden archive-wal main');
          const names = await segmentsIn(pg.walDir, last);
          const whole = async (): Promise<void> => {
            for (const name of names) {
              const { bytes } = await reader.type(`walwarden get-wal main ${name}`);
              expect(bytes.equals(await readFile(join(pg.walDir, name))), name).toBe(true);
            }
          };

          await reader.configure(await block('[main]', 1));
          await whole();
          const [enter = '', move = '', ...rest] = (await block('cd ')).trimEnd().split('\n');
          expect(rest).toEqual(['walwarden archive-wal main', 'walwarden rebuild-xlogdb main']);
          await reader.type(`${enter}\n${move}`);
          await whole();
          await reader.type(rest.join('\n'));
          await whole();
          await pg.kill9();
          expect(await readdir(join(reader.home, 'main', 'incoming'))).toEqual([]);
          expect(await readdir(join(reader.home, 'main', 'errors'))).toEqual([]);
          const keys = await keysIn(endpoint);
          // Plain ones are compressed as it is configured now; the others stay what they are.
          expect(keys.some((key) => key.endsWith('.zst'))).toBe(true);
          expect(keys).toContainEqual(expect.stringContaining(`${last}.gz`));
          const { stdout } = await reader.type('walwarden -f json list-wals main');
          expect(JSON.parse(stdout)).toMatchObject({ timelines: [{ segments: names.length, gaps: [] }] });

          const [byGetWal = ''] = await restoreCommands();
          const restored = await pg.restore(backup, { restoreCommand: reader.restoreCommand(byGetWal) });
          await restored.writable(PATIENCE_MS);
          expect(await rowsOf(restored)).toEqual(['1', '2']);
        });
      }));

    test('an encrypted archive that was local moves into the bucket as docs/s3.md has it', () =>
      s3.withBucket((endpoint) => {
        const { accessKeyId, secretAccessKey } = endpoint;
        const variables = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
        const local = '[main]\narchiver = on\nconninfo = host=pg user=barman dbname=postgres\n';
        return withReader(endpoint, variables, local, (reader) =>
          withKeyring(reader.pg, async (gnupg) => {
            const { pg, home } = reader;
            const encryption = `encryption = gpg\nencryption_key_id = ${KEY}\ngnupg_home = ${gnupg}\nencryption_passphrase_command = echo "${PASSPHRASE}"\n`;
            await reader.configure(`${local}compression = zstd\n${encryption}`);
            await writeRow(pg, '1');
            const backup = await pg.baseBackup();
            const last = await writeRow(pg, '2');
            await reader.type('walwarden archive-wal main');
            const names = await segmentsIn(pg.walDir, last);
            await pg.kill9();

            await reader.configure(`${await block('[main]', 1)}${encryption}`);
            const [commands = ''] = await blocksOf('Moving an encrypted archive', 'docs/s3.md');
            await reader.type(commands);
            expect(await readdir(join(home, 'main', 'incoming'))).toEqual([]);
            expect(await readdir(join(home, 'main', 'errors'))).toEqual([]);
            const keys = await keysIn(endpoint);
            for (const name of names) expect(keys).toContainEqual(expect.stringContaining(`${name}.zst`));
            const { stdout } = await reader.type('walwarden -f json list-wals main');
            expect(JSON.parse(stdout)).toMatchObject({ timelines: [{ segments: names.length, gaps: [], backups: 1 }] });
            await reader.type('rm -r /var/lib/barman/main/wals/0*');

            const [byGetWal = ''] = await restoreCommands();
            const restored = await pg.restore(backup, { restoreCommand: reader.restoreCommand(byGetWal) });
            await restored.writable(PATIENCE_MS);
            expect(await rowsOf(restored)).toEqual(['1', '2']);
          }),
        );
      }));
  },
  ['rgw'],
);
