import { join } from 'node:path';
import { RememberedListing } from './archiver/archive-listing.ts';
import type { Server } from './server.ts';

/** What is remembered of the last listing of a server's archive. */
export function rememberedListing({ config }: Pick<Server, 'config'>): RememberedListing {
  const { backup_directory, wals_directory } = config.options;
  return new RememberedListing(join(backup_directory, '.archive-listing.json'), wals_directory);
}
