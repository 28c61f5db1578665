import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { run } from '../support/run.ts';

/** Code that finds the module under test in `module`. */
function programText(module: string, code: string): string {
  return `const module = await import(${JSON.stringify(module)});\n${code}`;
}

/**
 * What an expression over `module` throws, or resolves to, in a process that
 * has only so many file descriptors left.
 */
export async function evaluateWithDescriptors(module: string, free: number, expression: string): Promise<unknown> {
  const code = `
    const { openSync, closeSync } = await import('node:fs');
    const taken = [];
    try { for (;;) taken.push(openSync('/dev/null')); } catch {}
    for (let i = 0; i < ${free}; i += 1) closeSync(taken.pop());
    const answer = await (${expression}).catch(({ code, message, hint }) => ({ code, message, hint }));
    for (const fd of taken) closeSync(fd);
    console.log(JSON.stringify(answer));`;
  const limited = ['-c', 'ulimit -n 64; exec "$0" --input-type=module -e "$1"'];
  const { status, stdout, stderr } = await run('sh', [...limited, process.execPath, programText(module, code)], {});
  if (status !== 0) throw new Error(`it ended with ${status}: ${stderr}`);
  return JSON.parse(stdout);
}

export interface ModuleProcess {
  readonly pid: number;
  /** Resolves with the first line that it prints, or with nothing when it ends before. */
  readonly said: Promise<string>;
  /** Resolves with all that it printed, and its exit status, once it has ended. */
  readonly ended: Promise<{ readonly output: string; readonly status: number | null }>;
}

/** Runs code in the leader of a process group, as a shell with a terminal does; it is killed in the end. */
export async function withModuleProcess(
  module: string,
  code: string,
  env: NodeJS.ProcessEnv,
  body: (child: ModuleProcess) => Promise<void>,
): Promise<void> {
  const child: ChildProcess = spawn(process.execPath, ['--input-type=module', '-e', programText(module, code)], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  await once(child, 'spawn');
  let output = '';
  const said = new Promise<string>((resolve) => {
    child.once('close', () => resolve(''));
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.includes('\n')) resolve(output.slice(0, output.indexOf('\n')));
    });
  });
  const ended = new Promise<{ output: string; status: number | null }>((resolve) => {
    child.once('close', (status) => resolve({ output, status }));
  });
  try {
    await body({ pid: child.pid ?? Number.NaN, said, ended });
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}
