import { isAlive } from '../durable/lock-file.ts';
import { Gauge, Registry } from 'prom-client';
import type { ReceiverReport, ReceiverState } from '../receiver/receiver-report.ts';
import type { ReceivingState, ServerView } from './daemon-view.ts';
import { LOOKED_AT, type LookFacts } from './server-look.ts';

/** The WAL file that a server's archive took last. */
export interface LastArchived {
  readonly wal: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

/** What is looked up when somebody asks: name, help, and the labels besides `server`. */
const GAUGES = {
  state: ['walwarden_server_state', 'What is done for the server: 1 for its state, 0 for the others.', 'state'],
  failing: ['walwarden_archiving_failing', '1 while archiving fails, else 0.'],
  failures: ['walwarden_archiving_consecutive_failures', 'Archive passes that failed in a row.'],
  watched: ['walwarden_arrivals_watched', '1 when the kernel tells of arrivals, 0 when only polling finds them.'],
  lastPass: ['walwarden_last_pass_timestamp_seconds', 'When the last archive pass ended.'],
  waiting: ['walwarden_waiting_files', 'WAL files that wait to be archived.', 'directory'],
  oldest: [
    'walwarden_oldest_waiting_file_age_seconds',
    'How long the first of the waiting files has been there; 0 when none waits.',
    'directory',
  ],
  errors: ['walwarden_errors_files', 'Files in the errors directory.', 'kind'],
  lastWal: ['walwarden_last_archived_wal_info', 'The WAL file that was archived last, as a label; always 1.', 'wal'],
  lastArchived: [
    'walwarden_last_archived_timestamp_seconds',
    'When a WAL file was archived last; until this daemon has archived one, when the newest archived segment was written.',
  ],
  files: ['walwarden_catalogue_files', 'Files that the catalogue has.'],
  bytes: ['walwarden_catalogue_stored_bytes', 'Bytes of the files that the catalogue has, as they are stored.'],
  damaged: ['walwarden_catalogue_damaged_lines', 'Lines of the catalogue that are none.'],
  missing: [
    'walwarden_missing_segments',
    'Segments that are missing between archived ones of a timeline, and were not acknowledged.',
    'timeline',
  ],
  histories: ['walwarden_missing_history_files', 'Timelines whose history file is missing, and was not acknowledged.'],
  listed: ['walwarden_listing_timestamp_seconds', 'When what is stored was listed last.'],
  lost: ['walwarden_listing_missing_files', 'Files of the catalogue that were not stored when that was listed last.'],
  unlisted: ['walwarden_listing_unlisted_files', 'Stored files that had no line in the catalogue then.'],
  receiver: ['walwarden_receiver_state', 'What receive-wal does: 1 for its state, 0 for the others.', 'state'],
  streamed: ['walwarden_receiver_last_streamed_timestamp_seconds', 'When receive-wal received last, to half a minute.'],
  receiverStarts: [
    'walwarden_receiver_pg_receivewal_restarts',
    'Starts of pg_receivewal after the first, in the life of the receive-wal process.',
  ],
  stalls: [
    'walwarden_receiver_stalls',
    'Times that pg_receivewal hung and was started again, in the life of the receive-wal process.',
  ],
  up: ['walwarden_postgres_up', '1 when the PostgreSQL that WAL is received from answers questions, else 0.'],
  lag: ['walwarden_receiver_lag_bytes', 'WAL that the server has written and receive-wal has not.'],
  free: ['walwarden_disk_free_bytes', 'Free bytes of the file system that holds a directory.', 'directory'],
  size: ['walwarden_disk_size_bytes', 'Size of the file system that holds a directory.', 'directory'],
  scrape: ['walwarden_scrape_errors', '1 for what could not be looked at for this answer, else 0.', 'what'],
} as const satisfies Readonly<Record<string, readonly [name: string, help: string, label?: string]>>;

type GaugeName = keyof typeof GAUGES;

const SERVER_STATES = ['active', 'inactive', 'passive', 'disabled'] as const;
/** `unknown`: another program holds the lock, which does not tell what it does. */
const RECEIVER_STATES: readonly (ReceiverState | 'unknown')[] = [
  'preparing',
  'streaming',
  'waiting',
  'blocked',
  'low-disk',
  'stopping',
  'stopped',
  'unknown',
];

/** The gauges of one answer: what is left out of it, an earlier one can't leave behind. */
export class ServerGauges {
  readonly registry = new Registry();
  readonly #gauges = new Map<GaugeName, Gauge>();

  constructor() {
    for (const [key, [name, help, label]] of Object.entries(GAUGES)) {
      const labelNames = label === undefined ? ['server'] : ['server', label];
      if (isGaugeName(key)) this.#gauges.set(key, new Gauge({ name, help, labelNames, registers: [this.registry] }));
    }
  }

  /** `last`: what this daemon archived last; null when that is nothing. */
  show(view: ServerView, facts: LookFacts, last: LastArchived | null, now = Date.now()): void {
    const server = view.name;
    const set = (gauge: GaugeName, value: number | undefined | null, label?: string): void => {
      if (value === undefined || value === null) return;
      const [, , labelName]: readonly [string, string, string?] = GAUGES[gauge];
      const labels = labelName === undefined || label === undefined ? { server } : { server, [labelName]: label };
      this.#gauges.get(gauge)?.set(labels, value);
    };
    const oneOf = (gauge: GaugeName, states: readonly string[], current: string): void => {
      for (const state of states) set(gauge, Number(state === current), state);
    };

    oneOf('state', SERVER_STATES, stateOf(view));
    const { archiving, receiving } = view;
    if (archiving !== null) {
      set('failing', Number(archiving.state === 'failing'));
      set('failures', archiving.failures);
      set('watched', Number(archiving.watching));
      set('lastPass', seconds(archiving.lastPass));
    }
    const { archiver, streaming_archiver } = view.config.options;
    for (const directory of ['incoming', 'streaming'] as const) {
      const waiting = facts[directory];
      // What lies where nobody takes it from does not wait.
      if (waiting === undefined || !(directory === 'incoming' ? archiver : streaming_archiver)) continue;
      set('waiting', waiting.files, directory);
      // The clock may have been set back.
      set('oldest', waiting.since === null ? 0 : Math.max(0, (now - waiting.since) / 1000), directory);
    }
    for (const [kind, files] of facts.errors ?? []) set('errors', files, kind);
    const newest = facts.catalogue?.newest ?? null;
    const archived = last ?? (newest === null ? null : { wal: newest.name, at: newest.mtime * 1000 });
    if (archived !== null) {
      set('lastWal', 1, archived.wal);
      set('lastArchived', archived.at / 1000);
    }
    set('files', facts.catalogue?.files);
    set('bytes', facts.catalogue?.bytes);
    set('damaged', facts.catalogue?.damagedLines);
    set('histories', facts.catalogue?.missingHistories);
    set('listed', seconds(facts.listing?.finishedAt ?? null));
    set('lost', facts.listing?.missing.count);
    set('unlisted', facts.listing?.unlisted.count);
    for (const [timeline, segments] of facts.catalogue?.missing ?? []) set('missing', segments, String(timeline));
    if (receiving !== null && facts.receiver !== undefined) {
      const report = facts.receiver;
      oneOf('receiver', RECEIVER_STATES, receiverState(receiving, report));
      set('streamed', seconds(report?.lastStreamed ?? null));
      set('receiverStarts', report?.restarts);
      set('stalls', report?.stalls);
    }
    if (facts.lag !== undefined && facts.lag !== null) {
      set('up', Number(facts.lag.up));
      set('lag', facts.lag.lagBytes);
    }
    for (const [directory, { free, total }] of facts.disks ?? []) {
      set('free', free, directory);
      set('size', total, directory);
    }
    if (!view.config.disabled) for (const what of LOOKED_AT) set('scrape', Number(facts.failed.has(what)), what);
  }
}

function isGaugeName(text: string): text is GaugeName {
  return Object.hasOwn(GAUGES, text);
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}

function stateOf({ config }: ServerView): (typeof SERVER_STATES)[number] {
  if (config.disabled) return 'disabled';
  if (!config.active) return 'inactive';
  return config.passive ? 'passive' : 'active';
}

/** The report is the receiver's own, but it may be one that an earlier process has left. */
function receiverState({ state, pid }: ReceivingState, report: ReceiverReport | null): ReceiverState | 'unknown' {
  switch (state) {
    case 'starting':
      return 'preparing';
    case 'running':
      return report !== null && report.pid === pid ? report.state : 'preparing';
    case 'elsewhere':
      return report !== null && isAlive(report.pid) ? report.state : 'unknown';
    case 'waiting':
    case 'stopped':
      return 'stopped';
  }
}
