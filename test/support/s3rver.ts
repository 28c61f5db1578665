import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { S3Keys } from './s3-endpoint.ts';
import { tempParent, tempPrefix } from './temp-dir.ts';

const PACKAGE = '@20minutes/s3rver';

// Ends when its stdin does, and so with us. It derives bucket paths otherwise than the SDK when it checks a
// signature, so it must let any pass; it knows its access keys all the same.
const PROGRAM = `
  const [, program, directory] = process.argv;
  const S3rver = require(program);
  const server = new S3rver({ address: '127.0.0.1', port: 0, silent: true, directory, allowMismatchedSignatures: true });
  server.run().then(({ port }) => console.log(port));
  process.stdin.resume().on('end', () => process.exit());
`;

function findProgram(): string {
  try {
    return createRequire(import.meta.url).resolve(PACKAGE);
  } catch (error) {
    throw new Error(`no ${PACKAGE} to test with: run npm ci`, { cause: error });
  }
}

/** The npm package s3rver as a process of its own, for machines without Ceph. What it can't do is in CONTRIBUTING.md. */
export class S3rver {
  readonly url: string;
  readonly region = 'us-east-1';
  /** The only ones that it knows. */
  readonly owner: S3Keys = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' };
  readonly #end: () => Promise<void>;

  private constructor(port: number, end: () => Promise<void>) {
    this.url = `http://127.0.0.1:${port}`;
    this.#end = end;
  }

  static async start(): Promise<S3rver> {
    const program = findProgram();
    const directory = await mkdtemp(join(tempParent(), `${tempPrefix()}s3rver-`));
    // The tokens of its listings are made with DES, which OpenSSL 3 calls legacy.
    const child = spawn(process.execPath, ['--openssl-legacy-provider', '-e', PROGRAM, program, directory], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const end = async (): Promise<void> => {
      const ended = child.exitCode === null && child.signalCode === null ? once(child, 'close') : null;
      child.kill('SIGKILL');
      await ended;
      await rm(directory, { recursive: true, force: true });
    };
    const lines = createInterface(child.stdout);
    for await (const line of lines) return new S3rver(Number(line), end);
    await end();
    throw new Error(`${PACKAGE} does not start`);
  }

  stop(): Promise<void> {
    return this.#end();
  }
}
