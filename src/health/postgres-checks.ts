import type { PostgresError } from '../postgres/failure.ts';
import type { RemoteStatus, ServerStatus, StreamingStatus } from '../postgres/remote-status.ts';
import { describeHolder, endsBy, lossOf, type ReplicationSlot } from '../postgres/replication-slot.ts';
import { formatLsn } from '../wal/lsn.ts';
import { explain, formatBytes } from '../words.ts';
import type { CheckResult } from './check-strategy.ts';

export interface PostgresCheckOptions {
  /** walwarden's name of the server. */
  readonly server: string;
  /** `streaming_archiver` is on. */
  readonly streams: boolean;
  /** WAL is received from another server than that of `conninfo`; Barman then adds ` (WAL streaming)` to the names. */
  readonly separate: boolean;
  readonly slotName: string | null;
  /** Why nothing is received; null when something is, or it is not known. */
  readonly notReceiving: string | null;
  /** An LSN up to which our receiver streams without the slot, which reserves WAL from there on only; null when it does not. */
  readonly withoutSlotUntil?: string | null;
  /** `streaming_archiver_name`: the application_name of our own receiver; without it any process may be that. */
  readonly streamingName?: string;
  /** `create_slot`; `manual` when not given. */
  readonly createSlot?: 'manual' | 'auto';
  /** It is not the server that the archive belongs to, or not the same over all connections. */
  readonly isOtherCluster?: boolean;
}

/** The oldest server whose WAL we know. */
const OLDEST_VERSION = 100_000;

/** `PostgreSQL`, `PostgreSQL streaming`, `wal_level`, in Barman's order; only what could be known. */
export function checkPostgres({ server, streaming }: RemoteStatus, options: PostgresCheckOptions): CheckResult[] {
  const { separate } = options;
  const results: CheckResult[] = [];
  if (server !== null) results.push(checkConnection(server));
  const level = (name: string, walLevel: string | null): void => {
    if (walLevel !== null) results.push(checkWalLevel(name, walLevel));
  };
  if (separate) level('wal_level', server?.walLevel ?? null);
  if (options.streams && streaming !== null && (streaming.error === null || isAskable(server, options))) {
    results.push(checkStreamingConnection(nameOf('PostgreSQL streaming', options), streaming));
  }
  if (separate) level(nameOf('wal_level', options), streaming?.walLevel ?? null);
  else level('wal_level', server?.walLevel ?? streaming?.walLevel ?? null);
  return results;
}

/** `replication slot`; nothing where none is configured. */
export function checkReplicationSlot(remote: RemoteStatus, options: PostgresCheckOptions): CheckResult[] {
  const { server, streaming, slot } = remote;
  if (slot === null || options.slotName === null) return [];
  const check = nameOf('replication slot', options);
  if (slot.error === null) return checkSlot(check, options.slotName, slot.slot, streaming, options);
  return isAskable(server, options) ? [failed(check, slot.error)] : [];
}

/** Barman's name for the same check of the server that WAL is received from, where that is another one. */
export function nameOf(check: string, { separate }: PostgresCheckOptions): string {
  return separate ? `${check} (WAL streaming)` : check;
}

/** What can't be asked because PostgreSQL doesn't answer is no failure of its own. */
function isAskable(server: ServerStatus | null, { separate }: PostgresCheckOptions): boolean {
  return separate || server === null || checkConnection(server).ok;
}

function checkConnection({ error, serverVersion, versionText, role }: ServerStatus): CheckResult {
  const check = 'PostgreSQL';
  if (serverVersion === null || (error !== null && error.failure !== 'no-privilege')) return failed(check, error);
  if (serverVersion < OLDEST_VERSION) {
    const hint = `version ${versionText ?? serverVersion} is too old: WAL of PostgreSQL 10 and later can be archived`;
    return { check, ok: false, hint };
  }
  // Some of what we ask needs a role that may see it.
  if (error !== null) return { check, ok: true, hint: explain(error) };
  const blind = role !== null && role !== undefined && !role.monitor;
  const hint = blind ? `role ${JSON.stringify(role.name)} does not see everything: grant it pg_monitor` : null;
  return { check, ok: true, hint };
}

function checkStreamingConnection(check: string, { error }: StreamingStatus): CheckResult {
  return error === null ? { check, ok: true, hint: null } : failed(check, error);
}

function failed(check: string, error: PostgresError | null): CheckResult {
  return { check, ok: false, hint: error === null ? 'it gives no answer' : explain(error) };
}

function checkWalLevel(check: string, walLevel: string): CheckResult {
  return walLevel === 'minimal'
    ? {
        check,
        ok: false,
        hint: 'it is minimal, which leaves out of the WAL what a recovery needs: set wal_level = replica and restart the server',
      }
    : { check, ok: true, hint: null };
}

function checkSlot(
  check: string,
  slotName: string,
  slot: ReplicationSlot | null,
  streaming: StreamingStatus | null,
  options: PostgresCheckOptions,
): CheckResult[] {
  const name = JSON.stringify(slotName);
  const retained = slot === null ? '' : describeRetained(slot, streaming);
  if (!options.streams) {
    // As in Barman no failure: it may be about to be used.
    if (slot === null || slot.restartLsn === null) return [];
    const use = slot.active ? `is in use by ${describeHolder(slot)}` : 'exists';
    const hint = `WARNING: streaming_archiver is off, but slot ${name} ${use} and makes the server keep WAL${retained}; drop it (receive-wal --drop-slot) when nobody needs it`;
    return [{ check, ok: true, hint }];
  }
  const until = options.withoutSlotUntil ?? null;
  if (until !== null && slot !== null && !slot.active && slot.type === 'physical' && lossOf(slot) === null) {
    const hint = `not in use yet: receive-wal first receives, without it, what the server still has before ${until}`;
    return [{ check, ok: true, hint }];
  }
  const trouble = troubleOfSlot(name, slot, retained, options);
  if (trouble !== null) return [{ check, ok: false, hint: trouble }];
  const extended =
    slot?.walStatus === 'extended' ? `the server keeps more WAL for it than max_wal_size${retained}` : null;
  return [{ check, ok: true, hint: extended }];
}

function troubleOfSlot(
  name: string,
  slot: ReplicationSlot | null,
  retained: string,
  options: PostgresCheckOptions,
): string | null {
  const { server, notReceiving, createSlot, isOtherCluster } = options;
  if (slot === null) {
    if (isOtherCluster === true) {
      return `slot ${name} does not exist on the server, which seems to be the wrong one: see systemid coherence`;
    }
    if (createSlot === 'auto') {
      const why = notReceiving === null ? '' : `; ${notReceiving}`;
      return `slot ${name} does not exist on the server: as create_slot = auto, the next start of receive-wal makes it${why}`;
    }
    return `slot ${name} does not exist on the server: walwarden receive-wal --create-slot ${server}, or create_slot = auto`;
  }
  if (slot.type !== 'physical') return `slot ${name} is a ${slot.type} one: slot_name needs a physical slot`;
  const loss = lossOf(slot);
  if (loss !== null) {
    const reset = `walwarden receive-wal --reset ${server} makes it usable again (by hand: --drop-slot ${server}, then --create-slot and --reset)`;
    return `slot ${name} is lost, ${loss.why}: ${reset}; walwarden list-wals --gaps ${server} tells what is missing; against the next time ${loss.cure}`;
  }
  const why = notReceiving ?? 'no receiver is connected';
  const intruder = describeIntruder(slot, options);
  if (intruder !== null) return `slot ${name} is in use by ${intruder}`;
  if (slot.restartLsn === null) return `slot ${name} was never used: ${why}`;
  if (!slot.active) return `slot ${name} is not in use, and the server keeps WAL for it${retained}: ${why}`;
  if (slot.walStatus === 'unreserved') {
    return `slot ${name} is about to be lost: raise max_slot_wal_keep_size on the server before its next checkpoint`;
  }
  return null;
}

/** A process that has the slot in place of our receiver, and what to do about it; null when there is none, as far as can be told. */
function describeIntruder(
  slot: ReplicationSlot,
  { server, notReceiving, streamingName }: PostgresCheckOptions,
): string | null {
  if (!slot.active || streamingName === undefined) return null;
  const remedy = `stop it, or set slot_name of [${server}] to a slot of its own`;
  const why = notReceiving === null ? '' : `; ${notReceiving}`;
  const name = slot.applicationName ?? null;
  if (name !== null && name !== streamingName) {
    return `${describeHolder(slot)}, which is not our receiver: ${remedy}${why}`;
  }
  return notReceiving === null
    ? null
    : `${describeHolder(slot)}, and our receive-wal receives nothing: if that is the receiver of another machine, ${remedy}${why}`;
}

/** How much WAL the server keeps for it, and what can end that. */
function describeRetained(slot: ReplicationSlot, streaming: StreamingStatus | null): string {
  const { restartLsn } = slot;
  if (restartLsn === null) return '';
  const current = streaming?.currentLsn ?? null;
  const amount = current === null || current < restartLsn ? '' : `, ${formatBytes(Number(current - restartLsn))}`;
  const ends = endsBy(slot);
  return ` since ${formatLsn(restartLsn)}${amount}${ends === null ? '' : `, but only until ${ends} ends that`}`;
}

export interface SystemIdentifiers {
  /** Over `conninfo`. */
  readonly server: bigint | null;
  /** Over the replication connection. */
  readonly streaming: bigint | null;
  /** What the archive's identity.json says; null while there is none. */
  readonly archive: bigint | null;
  /** Where that stands. */
  readonly path: string;
  /** The options of both connections. */
  readonly options: readonly [server: string, streaming: string];
}

/** `systemid coherence`: both connections reach the cluster whose WAL is in the archive. */
export function checkSystemIdentifiers(check: string, name: string, ids: SystemIdentifiers): CheckResult {
  const { server, streaming, archive, path } = ids;
  const [option, streamingOption] = ids.options;
  if (server !== null && streaming !== null && server !== streaming) {
    const whose =
      archive === server
        ? `; the archive belongs to the former, so ${streamingOption} is wrong`
        : archive === streaming
          ? `; the archive belongs to the latter, so ${option} is wrong`
          : '';
    const hint = `${option} reaches system identifier ${server}, and ${streamingOption} another cluster: ${streaming}${whose}`;
    return { check, ok: false, hint };
  }
  const found = server ?? streaming;
  if (found === null) return { check, ok: true, hint: 'the system identifier of the server is not known' };
  if (archive === null) return { check, ok: true, hint: `nothing is archived yet that ${path} could be made from` };
  if (found === archive) return { check, ok: true, hint: null };
  const via = server === null ? streamingOption : option;
  const hint =
    `${via} reaches system identifier ${found}, but this archive belongs to ${archive} (${path}): ` +
    `is it the wrong server? After pg_upgrade: walwarden errors resolve --accept-identity ${name}`;
  return { check, ok: false, hint };
}
