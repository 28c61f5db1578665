import type { ErrorFile } from '../archiver/errors-directory.ts';
import { readDelivered } from '../durable/delivered-file.ts';
import { WalwardenError } from '../errors.ts';
import type { Server } from '../server.ts';
import { sha256 } from '../storage/sha256.ts';
import { isWalName, type WalName } from '../wal/wal-name.ts';

/**
 * Has a segment taken as it is that PostgreSQL delivers again and again, and that
 * is refused because a page of it is not its own: its next delivery is archived.
 * Resolves to what was done. Throws `usage` when no segment of that name was refused.
 */
export async function takeRefusedAsItIs(server: Server, file: string): Promise<string> {
  const [refused] = isWalName(file) ? await server.refused.of(file) : [];
  if (refused === undefined) {
    throw new WalwardenError(
      'usage',
      `no file ${JSON.stringify(file)} in ${server.errors.path}, and none of that name was refused`,
      {
        hint: `see: walwarden errors list ${server.name}, and walwarden check ${server.name}`,
      },
    );
  }
  await server.refused.takeAsItIs(refused.name, refused.sha256);
  return `taken as it is with its next delivery, for its content (SHA-256 ${refused.sha256}): ${refused.reason}`;
}

/** The same for a file in errors, whose content is taken from now on, wherever it comes from. */
export async function takeFileAsItIs(server: Server, file: ErrorFile, wal: WalName): Promise<void> {
  const { plain } = await server.unpacker.unpack(await readDelivered(server.errors.pathOf(file)), wal);
  await server.refused.takeAsItIs(wal, sha256(plain));
}
