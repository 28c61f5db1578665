import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ArchiveObserver } from '../archiver/wal-archiver.ts';
import type { ErrorCode } from '../errors.ts';
import type { SaveResult } from '../storage/wal-storage-strategy.ts';
import { ownVersion } from '../version.ts';
import { walKind } from '../wal/wal-name.ts';
import type { DaemonView, ServerView } from './daemon-view.ts';
import { ServerGauges, type LastArchived } from './server-gauges.ts';
import { DEFAULT_LIMITS, ServerLook, type LookLimits } from './server-look.ts';

/** What the daemon counts, for Prometheus. */
export class DaemonMetrics {
  readonly #limits: LookLimits;
  readonly #own = new Registry();
  readonly #reload: { readonly success: Gauge; readonly time: Gauge };
  readonly #servers = new Map<string, ServerMetrics>();

  constructor(limits: Partial<LookLimits> = {}) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    const registers = [this.#own];
    collectDefaultMetrics({ register: this.#own });
    new Gauge({
      name: 'walwarden_build_info',
      help: 'The version of the daemon, as a label; always 1.',
      labelNames: ['version'],
      registers,
    }).set({ version: ownVersion() }, 1);
    this.#reload = {
      success: new Gauge({
        name: 'walwarden_config_last_reload_successful',
        help: '1 when the configuration in use is the one in the files as of the last reload, 0 when that was rejected.',
        registers,
      }),
      time: new Gauge({
        name: 'walwarden_config_last_reload_success_timestamp_seconds',
        help: 'When the configuration in use was read.',
        registers,
      }),
    };
    this.reloaded(true);
  }

  /** The configuration was read again, and taken or rejected. */
  reloaded(taken: boolean): void {
    this.#reload.success.set(Number(taken));
    if (taken) this.#reload.time.setToCurrentTime();
  }

  /** Counts what becomes of a server's files. */
  archiving(server: string): ArchiveObserver {
    const metrics = this.#of(server);
    return {
      staged: (seconds) => metrics.stage.observe(seconds),
      committed: (seconds) => metrics.commit.observe(seconds),
      concluded: (archiver, result) => metrics.concluded(archiver, result),
    };
  }

  /** A pass of a server ended early. */
  passFailed(server: string, cause: ErrorCode): void {
    this.#of(server).passFailures.inc({ code: cause });
  }

  /** The receive-wal process of a server was started again. */
  receiverRestarted(server: string): void {
    this.#of(server).receiverRestarts.inc();
  }

  /** A WAL file came in over HTTP (`put`), or was asked for (`get`), and was answered with this status. Of configured servers only. */
  request(server: string, operation: 'put' | 'get', status: number, bytes: number, seconds: number): void {
    const { requests, requestBytes, requestSeconds } = this.#of(server);
    requests.inc({ operation, status });
    requestBytes.inc({ operation }, bytes);
    requestSeconds.observe({ operation }, seconds);
  }

  /** A server is configured no more: nothing of it is shown from now on. */
  forget(server: string): void {
    this.#servers.delete(server);
  }

  /** In Prometheus' text format. `servers`: only theirs, and what is nobody's. */
  async text(view: DaemonView, servers: ReadonlySet<string>): Promise<string> {
    for (const known of this.#servers.keys()) if (!view.servers.has(known)) this.forget(known);
    const shown = [...view.servers.values()].filter(({ name }) => servers.has(name));
    const gauges = new ServerGauges();
    const look = async (server: ServerView): Promise<string> => {
      const metrics = this.#of(server.name);
      metrics.expect(server);
      gauges.show(server, await metrics.look.facts(server, view.kill), metrics.last);
      return metrics.registry.metrics();
    };
    const counted = await Promise.all(shown.map(look));
    return [await this.#own.metrics(), mergeFamilies(counted), await gauges.registry.metrics()].join('\n');
  }

  #of(server: string): ServerMetrics {
    let metrics = this.#servers.get(server);
    if (metrics === undefined) this.#servers.set(server, (metrics = new ServerMetrics(server, this.#limits)));
    return metrics;
  }
}

/** Where nothing goes wrong, too, a rate needs a number to begin with. */
const OUTCOMES = ['conflict', 'invalid', 'incomplete', 'changed', 'failed'] as const;

const FILE_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const COMMIT_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** What is counted of one server, in a registry of its own that puts its name on everything. */
class ServerMetrics {
  readonly registry = new Registry();
  readonly look: ServerLook;
  last: LastArchived | null = null;

  readonly archived = this.#counter('archived_files', 'WAL files that were archived.', 'archiver');
  readonly duplicates = this.#counter(
    'duplicate_files',
    'WAL files that were archived before, with the same content.',
    'archiver',
  );
  readonly notArchived = this.#counter(
    'unarchived_files',
    'Times that a WAL file was not archived; one that stays is counted with every pass. conflict and invalid went to errors.',
    'archiver',
    'outcome',
  );
  readonly arrivedBytes = this.#counter('arrived_bytes', 'Bytes of the archived files as they arrived.', 'archiver');
  readonly storedBytes = this.#counter('stored_bytes', 'Bytes of the archived files as they are stored.', 'archiver');
  readonly passFailures = this.#counter('pass_failures', 'Archive passes that ended early.', 'code');
  readonly receiverRestarts = this.#counter('receiver_restarts', 'Starts of receive-wal after the first.');
  readonly requests = this.#counter('http_requests', 'Requests for WAL files.', 'operation', 'status');
  readonly requestBytes = this.#counter('http_wal_bytes', 'Bytes of WAL that came or went over HTTP.', 'operation');
  readonly stage = this.#histogram('stage', 'Reading, verifying, compressing and writing one file.', FILE_SECONDS);
  readonly commit = this.#histogram('commit', 'Making a group of files and their lines durable.', COMMIT_SECONDS);
  readonly requestSeconds = this.#histogram('http_request', 'Requests for WAL files.', FILE_SECONDS, 'operation');

  constructor(server: string, limits: LookLimits) {
    this.registry.setDefaultLabels({ server });
    this.look = new ServerLook(limits);
  }

  #counter(name: string, help: string, ...labelNames: string[]): Counter {
    return new Counter({ name: `walwarden_${name}_total`, help, labelNames, registers: [this.registry] });
  }

  #histogram(name: string, help: string, buckets: number[], ...labelNames: string[]): Histogram {
    return new Histogram({
      name: `walwarden_${name}_duration_seconds`,
      help,
      buckets,
      labelNames,
      registers: [this.registry],
    });
  }

  /** Shows zeros for what has not happened yet. */
  expect({ archiving, config }: ServerView): void {
    if (archiving === null) return;
    const { archiver: takesFiles, streaming_archiver: takesStream } = config.options;
    for (const archiver of [...(takesFiles ? ['file'] : []), ...(takesStream ? ['streaming'] : [])]) {
      for (const each of [this.archived, this.duplicates, this.arrivedBytes, this.storedBytes])
        each.inc({ archiver }, 0);
      for (const outcome of OUTCOMES) this.notArchived.inc({ archiver, outcome }, 0);
    }
  }

  concluded(name: string, result: SaveResult): void {
    const archiver = name === 'streaming' ? name : 'file';
    switch (result.outcome) {
      case 'stored':
        this.archived.inc({ archiver });
        this.arrivedBytes.inc({ archiver }, Number(result.wal.identity.size));
        this.storedBytes.inc({ archiver }, result.info.size);
        // Backup labels and history files say nothing of how far the archive is.
        if (walKind(result.info.name) === 'segment') this.last = { wal: result.info.name, at: Date.now() };
        break;
      case 'already-stored':
        this.duplicates.inc({ archiver });
        break;
      case 'conflict':
      case 'invalid':
      case 'incomplete':
      case 'changed':
      case 'failed':
        this.notArchived.inc({ archiver, outcome: result.outcome });
    }
  }
}

/** Texts of registries with the same metrics as one: each metric may stand there once, with all its series. */
function mergeFamilies(texts: readonly string[]): string {
  const families = new Map<string, string[]>();
  for (const text of texts) {
    for (const block of text.trimEnd().split('\n\n')) {
      const [help = '', type = '', ...series] = block.split('\n');
      const head = `${help}\n${type}`;
      const known = families.get(head);
      if (known === undefined) families.set(head, series);
      else known.push(...series);
    }
  }
  return [...families].map(([head, series]) => `${[head, ...series].join('\n')}\n`).join('\n');
}
