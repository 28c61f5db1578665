import type { ServerStatus, SlotStatus, StreamingStatus } from './remote-status.ts';

// What is known of a server that nothing is known of.

const UNKNOWN = { error: null, serverVersion: null, systemIdentifier: null };

export const UNKNOWN_STREAMING: StreamingStatus = {
  ...UNKNOWN,
  timeline: null,
  currentLsn: null,
  segmentSize: null,
  walLevel: null,
};

export const UNKNOWN_SLOT: SlotStatus = { ...UNKNOWN, slot: null, synchronousStandbyNames: null };

export const UNKNOWN_SERVER: ServerStatus = {
  ...UNKNOWN_STREAMING,
  versionText: null,
  isInRecovery: null,
  dataDirectory: null,
  archiveMode: null,
  archiveCommand: null,
  archiveLibrary: null,
  archiveTimeout: null,
  maxWalSenders: null,
  maxReplicationSlots: null,
  synchronousStandbyNames: null,
  archiver: null,
  replication: null,
  role: null,
};
