import { readFile, stat } from 'node:fs/promises';
import { errnoOf, messageOf } from '../errors.ts';

/** Whose password is looked for. */
export interface PasswordKey {
  /** Names that stand for the same host: a socket directory is also `localhost` when it is the default one. */
  readonly hosts: readonly string[];
  readonly port: number;
  readonly dbname: string;
  readonly user: string;
}

export interface PasswordFile {
  readonly path: string;
  /** Null when it does not exist or may not be used. */
  readonly text: string | null;
  /** Why it may not be used; null too when it does not exist, as it needn't. */
  readonly ignored: string | null;
}

/** Reads a password file, unless others can read it too (passwordFromFile in fe-connect.c). */
export async function readPasswordFile(path: string): Promise<PasswordFile> {
  const ignored = (why: string): PasswordFile => ({ path, text: null, ignored: why });
  try {
    const found = await stat(path);
    if (!found.isFile()) return ignored('it is not a plain file');
    if ((found.mode & 0o077) !== 0) return ignored('others may read it: chmod 0600');
    return { path, text: await readFile(path, 'utf8'), ignored: null };
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined) throw error;
    return errno === 'ENOENT' || errno === 'ENOTDIR' ? { path, text: null, ignored: null } : ignored(messageOf(error));
  }
}

/** The password of the first line that fits: `host:port:database:user:password`, `*` for any, `\` before `:` and `\`. */
export function passwordIn(text: string, { hosts, port, dbname, user }: PasswordKey): string | null {
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [host, linePort, lineDbname, lineUser, password] = splitFields(line.replace(/\r+$/, ''));
    if (password === undefined) continue;
    const fits =
      hosts.some((name) => matches(host, name)) &&
      matches(linePort, String(port)) &&
      matches(lineDbname, dbname) &&
      matches(lineUser, user);
    if (fits) return unescape(password);
  }
  return null;
}

/** Still escaped: only a bare `*` stands for any. */
function splitFields(line: string): string[] {
  return line.match(/(?<=^|:)(?:\\.|[^\\:]|\\$)*(?=:|$)/g) ?? [];
}

function matches(field: string | undefined, value: string): boolean {
  return field === '*' || (field !== undefined && unescape(field) === value);
}

function unescape(field: string): string {
  return field.replace(/\\(.)/g, '$1');
}
