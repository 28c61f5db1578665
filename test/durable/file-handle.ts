import { open, type FileHandle } from 'node:fs/promises';

/** What every open file inherits, so that a test can count or break the calls of Node's own file handles. */
export async function fileHandlePrototype(): Promise<FileHandle> {
  await using handle = await open('/dev/null');
  const prototype: unknown = Object.getPrototypeOf(handle);
  if (!isFileHandle(prototype)) throw new Error('file handles have no prototype of their own');
  return prototype;
}

function isFileHandle(value: unknown): value is FileHandle {
  return typeof value === 'object' && value !== null && 'sync' in value && 'write' in value;
}

/** An error as the kernel's come through Node. */
export function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: made up by a test`), { code });
}
