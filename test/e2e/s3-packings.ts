import type { TestPostgres } from '../support/postgres.ts';
import { KEY, PASSPHRASE, withKeyring } from './with-keyring.ts';

type Options = Readonly<Record<string, string>>;

/** Gives the options of a server to `body`: no compression and no encryption but those. */
type Packing = <T>(pg: TestPostgres, body: (options: Options) => Promise<T>) => Promise<T>;

const only =
  (options: Options): Packing =>
  (_pg, body) =>
    body(options);

const encrypted: Packing = (pg, body) =>
  withKeyring(pg, (gnupg) =>
    body({
      compression: 'gzip',
      encryption: 'gpg',
      encryption_key_id: KEY,
      gnupg_home: gnupg,
      encryption_passphrase_command: `echo "${PASSPHRASE}"`,
    }),
  );

/** The ways in which files are packed; what `extension` the keys of their objects have. */
export const PACKINGS: readonly { label: string; extension: string; packing: Packing }[] = [
  { label: 'no compression', extension: '', packing: only({}) },
  { label: 'gzip', extension: '.gz', packing: only({ compression: 'gzip' }) },
  { label: 'zstd', extension: '.zst', packing: only({ compression: 'zstd' }) },
  { label: 'gzip and gpg', extension: '.gz', packing: encrypted },
];
