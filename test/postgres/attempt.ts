import { expect } from 'vitest';
import { connect, type ConnectOptions, type Row } from '../../src/postgres/connection.ts';
import { PostgresError } from '../../src/postgres/failure.ts';

/** Without the variables and the home of whoever runs the tests. */
export const CLEAN: NodeJS.ProcessEnv = { HOME: '/nonexistent' };

/** Connects and asks one question. */
export async function ask(conninfo: string, sql: string, options: ConnectOptions = {}): Promise<Row> {
  await using connection = await connect(conninfo, { environment: CLEAN, ...options });
  const [row] = await connection.query(sql);
  if (row === undefined) throw new Error(`no row: ${sql}`);
  return row;
}

/** What a failing attempt says; nothing of it may hold one of the secrets. */
export async function failureOf(
  conninfo: string,
  options: ConnectOptions = {},
  secrets: readonly string[] = [],
): Promise<PostgresError> {
  let error: unknown;
  try {
    await using _connection = await connect(conninfo, { environment: CLEAN, ...options });
  } catch (reason) {
    error = reason;
  }
  if (!(error instanceof PostgresError)) throw new Error(`no PostgresError: ${String(error)}`, { cause: error });
  for (const secret of secrets) expect(everythingIn(error)).not.toContain(secret);
  return error;
}

/** All that a log could show of an error: messages, stacks, every property, causes. */
function everythingIn(error: unknown): string {
  if (!(error instanceof Error)) return JSON.stringify(error) ?? '';
  const properties = Object.getOwnPropertyNames(error).filter((name) => name !== 'cause');
  const own = properties.map((name) => `${name}=${JSON.stringify(Reflect.get(error, name)) ?? ''}`);
  return `${error.message} ${own.join(' ')} ${error.cause === undefined ? '' : everythingIn(error.cause)}`;
}
