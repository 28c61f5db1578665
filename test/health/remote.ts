import { PostgresError, type PostgresFailure } from '../../src/postgres/failure.ts';
import type {
  ArchiverStatistics,
  RemoteStatus,
  ServerStatus,
  SlotStatus,
  StreamingStatus,
} from '../../src/postgres/remote-status.ts';
import type { ReplicationSlot } from '../../src/postgres/replication-slot.ts';
import { UNKNOWN_SERVER } from '../../src/postgres/unknown-status.ts';

/** The clock of these tests: 2026-10-03 12:00:00 UTC. */
export const NOW = Date.UTC(2026, 9, 3, 12);
export const MINUTE = 60_000;
export const SYSTEM_IDENTIFIER = 7_123_456_789_012_345_678n;

/** A PostgreSQL 15 that archives well. */
export function serverStatus(changes: Partial<ServerStatus> = {}): ServerStatus {
  return {
    ...UNKNOWN_SERVER,
    serverVersion: 150_018,
    systemIdentifier: SYSTEM_IDENTIFIER,
    versionText: '15.18',
    isInRecovery: false,
    walLevel: 'replica',
    segmentSize: 16 * 1024 * 1024,
    timeline: 1,
    currentLsn: 0x500_0028n,
    dataDirectory: '/var/lib/postgresql/15/main',
    archiveMode: 'on',
    archiveCommand: 'cp %p /incoming/%f',
    archiveLibrary: '',
    archiveTimeout: 60,
    maxWalSenders: 10,
    maxReplicationSlots: 10,
    synchronousStandbyNames: '',
    archiver: archiverStatistics(),
    replication: [],
    ...changes,
  };
}

export function archiverStatistics(changes: Partial<ArchiverStatistics> = {}): ArchiverStatistics {
  return {
    archivedCount: 4,
    lastArchivedWal: '000000010000000000000004',
    lastArchivedTime: NOW - 3 * MINUTE,
    failedCount: 0,
    lastFailedWal: null,
    lastFailedTime: null,
    statsReset: NOW - 600 * MINUTE,
    isArchiving: true,
    archivedPerSecond: 0.001,
    ...changes,
  };
}

/** As PostgreSQL tells it while archive_command fails. */
export const FAILING = archiverStatistics({
  failedCount: 7,
  lastFailedWal: '000000010000000000000005',
  lastFailedTime: NOW - MINUTE,
  isArchiving: false,
});

export function streamingStatus(changes: Partial<StreamingStatus> = {}): StreamingStatus {
  return {
    error: null,
    serverVersion: 150_018,
    systemIdentifier: SYSTEM_IDENTIFIER,
    timeline: 1,
    currentLsn: 0x500_0028n,
    segmentSize: 16 * 1024 * 1024,
    walLevel: 'replica',
    ...changes,
  };
}

export function slotStatus(slot: ReplicationSlot | null, changes: Partial<SlotStatus> = {}): SlotStatus {
  return {
    error: null,
    serverVersion: 150_018,
    systemIdentifier: SYSTEM_IDENTIFIER,
    slot,
    synchronousStandbyNames: '',
    ...changes,
  };
}

export function replicationSlot(changes: Partial<ReplicationSlot> = {}): ReplicationSlot {
  return {
    name: 'walwarden',
    type: 'physical',
    active: true,
    activePid: 4711,
    restartLsn: 0x400_0000n,
    walStatus: 'reserved',
    ...changes,
  };
}

export function remoteStatus(changes: Partial<RemoteStatus> = {}): RemoteStatus {
  return { server: serverStatus(), streaming: null, slot: null, ...changes };
}

/** A server that could not be asked. */
export function unreachable(failure: PostgresFailure = 'unreachable', message = 'connection refused'): ServerStatus {
  return { ...UNKNOWN_SERVER, error: new PostgresError(failure, message, { hint: 'see conninfo' }) };
}
