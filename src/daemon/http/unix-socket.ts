import { chmodSync } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { createConnection, type Server } from 'node:net';
import { dirname } from 'node:path';
import { makeDirectory, unlinkIfThere } from '../../durable/durable-file.ts';
import { errnoOf, messageOf, WalwardenError } from '../../errors.ts';

/** Who may connect: our user and our group. */
const SOCKET_MODE = 0o660;

/** Makes the directory of a socket, and removes the socket of a daemon that is dead. Throws `locked` when one lives. */
export async function clearWay(path: string): Promise<void> {
  try {
    await makeDirectory(dirname(path));
    const there = await lstat(path).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return null;
      throw error;
    });
    if (there === null) return;
    if (!there.isSocket()) {
      throw new WalwardenError('config', `http_listen: there is something else at ${path}, no socket`, {
        hint: 'move it away, or set http_listen to another path',
      });
    }
    if (await answers(path)) {
      throw new WalwardenError('locked', `another process listens on ${path}`, {
        hint: 'stop that one, or set http_listen to another path',
      });
    }
    await unlinkIfThere(path);
  } catch (cause) {
    if (cause instanceof WalwardenError) throw cause;
    throw new WalwardenError('config', `can't make the socket ${path} (http_listen): ${messageOf(cause)}`, {
      cause,
      hint: 'its directory must belong to the user that walwarden runs as',
    });
  }
}

/** Whether somebody takes connections there. One that is refused says no; any other trouble is thrown. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      const errno = errnoOf(error);
      if (errno === 'ECONNREFUSED' || errno === 'ENOENT') resolve(false);
      // Its queue is full: somebody is there.
      else if (errno === 'EAGAIN') resolve(true);
      else reject(error);
    });
  });
}

/** Begins to listen. */
export function listenOnSocket(server: Server, path: string): void {
  // Binds at once, and tells of it later. Until the next line, the umask says who may connect: not others, where it is any usual one.
  server.listen(path);
  try {
    chmodSync(path, SOCKET_MODE);
  } catch {
    // It could not be bound, of which the server tells.
  }
}
