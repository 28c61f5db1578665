import type { DepositParts } from './archiver/deposit.ts';
import type { WalFinderParts } from './archiver/wal-finder.ts';
import { localArchiveOf } from './server-settings.ts';
import type { Server } from './server.ts';
import { claimDirectories } from './storage/claim.ts';

// What delivering and finding WAL take of a server, whoever asks: a command or HTTP.

export function depositParts(server: Server): DepositParts {
  const { name, config, strategy, catalogue, errors, unpacker, refused, shortSegments, whole } = server;
  return {
    server: name,
    incoming: config.options.incoming_wals_directory,
    claims: claimDirectories(config.options.backup_directory).incoming,
    strategy,
    catalogue,
    errors,
    unpacker,
    refused,
    shortSegments,
    whole,
  };
}

export function finderParts(server: Server): WalFinderParts {
  const { config, strategy, errors, keys, unpacker, identity } = server;
  return {
    strategy,
    incoming: config.options.incoming_wals_directory,
    streaming: config.options.streaming_wals_directory,
    claims: claimDirectories(config.options.backup_directory),
    errors,
    incompleteTimeoutMs: config.options.incomplete_wal_timeout,
    keys,
    unpacker,
    deliveries: server.shortDeliveries,
    before: localArchiveOf(config),
    foreign: (systemIdentifier) => identity.foreign(systemIdentifier),
    checkAbsent: (names) => server.checkAbsent(names),
  };
}
