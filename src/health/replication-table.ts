import { formatBytes, formatTime } from '../words.ts';
import { formatLsn, type Lsn } from '../wal/lsn.ts';
import { STAGES, type ClientKind, type Stage, type StreamingClient } from './replication-clients.ts';

// The words and their order are Barman's (output.py, replication_status): people's scripts look for them.

/** What one server's `replication-status` shows. */
export interface ReplicationTable {
  readonly server: string;
  readonly target: ClientKind | 'all';
  readonly isInRecovery: boolean | null;
  readonly currentLsn: Lsn | null;
  readonly clients: readonly StreamingClient[];
}

const TITLES: Readonly<Record<ReplicationTable['target'], string>> = {
  all: 'streaming clients',
  'hot-standby': 'hot standby servers',
  'wal-streamer': 'WAL streamers',
};

/** Everything about each client. */
export function formatClients({ server, target, isInRecovery, currentLsn, clients }: ReplicationTable): string {
  const title = TITLES[target];
  const lines = [`Status of ${title} for server '${server}':`];
  if (currentLsn !== null) {
    const what = isInRecovery === true ? 'Last LSN replayed by standby' : 'Current LSN on master';
    lines.push(`  ${what}: ${formatLsn(currentLsn)}`);
  }
  if (clients.length === 0) lines.push(`  No ${title} attached`);
  else lines.push(`  Number of ${title}: ${clients.length}`);
  for (const [index, client] of clients.entries()) lines.push('', ...clientLines(index + 1, client));
  return `${lines.join('\n')}\n`;
}

/** One line a client. */
export function formatClientsBriefly({ server, target, isInRecovery, currentLsn, clients }: ReplicationTable): string {
  const title = TITLES[target];
  const of =
    isInRecovery === true || currentLsn === null
      ? `slave '${server}'`
      : `master '${server}' (LSN @ ${formatLsn(currentLsn)})`;
  const lines = [`${capital(title)} for ${of}:`];
  if (clients.length === 0) lines.push(`  No ${title} attached`);
  for (const [index, { client, kind, progress, ours }] of clients.entries()) {
    const lsn = (stage: Stage): string => textOf(progress[stage].lsn);
    const standby = kind === 'hot-standby';
    const positions = standby
      ? `S:${lsn('sent')} F:${lsn('flush')} R:${lsn('replay')}`
      : `S:${lsn('sent')} W:${lsn('write')}`;
    const state = standby ? (client.syncState ?? '?').slice(0, 1).toUpperCase() : 'W';
    const who = `${client.user ?? '-'}@${client.clientAddress ?? 'socket'}`;
    lines.push(
      `  ${index + 1}. ${state}) ${who} ${positions} P:${client.syncPriority ?? '-'} AN:${client.applicationName}` +
        (ours ? ' (this is our receive-wal)' : ''),
    );
  }
  return `${lines.join('\n')}\n`;
}

function clientLines(number: number, { client, ours, kind, syncStage, progress }: StreamingClient): string[] {
  const what = kind === 'hot-standby' ? 'standby' : 'WAL streamer';
  const synchronous = client.syncPriority !== null && client.syncPriority > 0;
  const state = capital(client.syncState ?? 'unknown');
  const facts: [label: string, value: string | null][] = [
    ['Application name', client.applicationName],
    ['Sync stage', syncStage],
    ['Communication', client.clientAddress === null ? 'Unix domain socket' : 'TCP/IP'],
    [
      'IP Address',
      client.clientAddress === null ? null : `${client.clientAddress} / Port: ${client.clientPort ?? '-'} / Host: -`,
    ],
    ['User name', client.user],
    ['Current state', `${client.state ?? 'unknown'} (${client.syncState ?? 'unknown'})`],
    ['Replication slot', client.slotName],
    ['WAL sender PID', String(client.pid)],
    ['Started at', client.backendStart === null ? null : formatTime(client.backendStart)],
  ];
  return [
    `  ${number}. ${synchronous ? `#${client.syncPriority} ` : ''}${state} ${what}${ours ? ' (this is our receive-wal)' : ''}`,
    ...facts.flatMap(([label, value]) => (value === null ? [] : [`     ${label.padEnd(16)}: ${value}`])),
    ...positionLines(progress),
  ];
}

function positionLines(progress: StreamingClient['progress']): string[] {
  const known = STAGES.filter((stage) => progress[stage].lsn !== null);
  const width = Math.max(...known.map((stage) => textOf(progress[stage].lsn).length));
  return known.map((stage) => {
    const { lsn, lagBytes, lagMs } = progress[stage];
    const diff = lagBytes === null ? 'unknown' : formatBytes(lagBytes);
    const lag = lagMs === null ? '' : `, lag: ${formatLag(lagMs)}`;
    return `     ${`${capital(stage)} LSN`.padEnd(11)}: ${textOf(lsn).padEnd(width)} (diff: ${diff}${lag})`;
  });
}

/** Milliseconds for people: commits wait for it, so that tenths of a millisecond count. */
export function formatLag(ms: number): string {
  if (ms < 1_000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function textOf(lsn: Lsn | null): string {
  return lsn === null ? '-' : formatLsn(lsn);
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
