import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { until } from '../support/poll.ts';

/** What a service manager was told. */
export type Message = Readonly<Record<string, string>>;

/** A socket that takes datagrams as systemd does, and what came. */
export async function withListener<T>(
  path: string,
  body: (messages: readonly Message[]) => Promise<T>,
  ...args: readonly string[]
): Promise<T> {
  const program = fileURLToPath(new URL('notify-socket.py', import.meta.url));
  const child = spawn('python3', [program, path, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  let output = '';
  const messages: Message[] = [];
  let listening = false;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (output + text).split('\n');
    output = lines.pop() ?? '';
    for (const line of lines) {
      const message: Message = JSON.parse(line);
      if ('listening' in message) listening = true;
      else messages.push(message);
    }
  });
  try {
    await until('the listener to be there', () => listening);
    return await body(messages);
  } finally {
    child.kill('SIGKILL');
    await ended;
  }
}
