import { fileArchivalStatus, whyNothingIsDelivered } from './archiver/file-archival-health.ts';
import { claimDirectories } from './storage/claim.ts';
import {
  fetchStreamingStatus,
  whyNothingIsReceived,
  type StreamingArchivalStatus,
} from './archiver/streaming-health.ts';
import {
  isStuck,
  whyItWaits,
  type ArchiveFacts,
  type FailureFacts,
  type LastPass,
  type QueueFacts,
} from './health/archive-checks.ts';
import type { RemoteStatus } from './postgres/remote-status.ts';
import { archiveFacts } from './server-archive-facts.ts';
import { answerOf, directoryProblems, errorNames, lastPass, queueFacts } from './server-facts.ts';
import { gapsOf } from './server-gaps.ts';
import type { Server } from './server.ts';
import type { Gap } from './wal/gaps.ts';
import { count } from './words.ts';

/** After this no further segments beside gaps are read to see whose they are, in milliseconds. */
const JUDGING_MS = 200;

/** What several checks of one run look at; asked for once, when the first of them wants it. */
export class Look {
  readonly server: Server;
  readonly locks: string;
  readonly limitMs: number;
  readonly now = Date.now();
  #remote: Promise<RemoteStatus> | undefined;
  #queues = new Map<'incoming' | 'streaming', Promise<QueueFacts>>();
  #directories: Promise<string[]> | undefined;
  #pass: Promise<LastPass | null> | undefined;
  #failure: Promise<FailureFacts | null> | undefined;
  #archive: Promise<ArchiveFacts> | undefined;
  #streaming: Promise<StreamingArchivalStatus> | undefined;
  #gaps: Promise<readonly Gap[]> | undefined;

  constructor(server: Server, locks: string, limitMs: number) {
    this.server = server;
    this.locks = locks;
    this.limitMs = limitMs;
  }

  remote(signal: AbortSignal): Promise<RemoteStatus> {
    return (this.#remote ??= answerOf(this.server, signal, this.limitMs));
  }

  queue(kind: 'incoming' | 'streaming'): Promise<QueueFacts> {
    const known = this.#queues.get(kind);
    if (known !== undefined) return known;
    const { options } = this.server.config;
    const claims = claimDirectories(options.backup_directory)[kind];
    const facts = queueFacts(options[`${kind}_wals_directory`], claims, kind, this.now);
    this.#queues.set(kind, facts);
    return facts;
  }

  /** What is wrong with the directories; those that are missing are made. */
  directories(): Promise<string[]> {
    return (this.#directories ??= directoryProblems(this.server, this.locks));
  }

  pass(): Promise<LastPass | null> {
    return (this.#pass ??= lastPass(this.server.lockPath('archive-wal')));
  }

  /** Why the last pass failed; null when it didn't, or none is expected of us. */
  failure(): Promise<FailureFacts | null> {
    const { config, failures } = this.server;
    return (this.#failure ??= config.active && !config.passive ? failures.current() : Promise.resolve(null));
  }

  archive(signal: AbortSignal): Promise<ArchiveFacts> {
    return (this.#archive ??= archiveFacts(this.server, signal));
  }

  /** What is missing in the archive. */
  gaps(signal: AbortSignal): Promise<readonly Gap[]> {
    return (this.#gaps ??= this.#findGaps(signal));
  }

  async #findGaps(signal: AbortSignal): Promise<readonly Gap[]> {
    const { timelines, segmentSize } = await this.archive(signal);
    const { server } = this;
    const patience = AbortSignal.any([signal, AbortSignal.timeout(JUDGING_MS)]);
    const gaps = await gapsOf(server, timelines, segmentSize, patience);
    return [...gaps.values()].flat();
  }

  streaming(signal: AbortSignal): Promise<StreamingArchivalStatus> {
    return (this.#streaming ??= (async () => fetchStreamingStatus(this.server.receiver, await this.remote(signal)))());
  }

  async whyItWaits(kind: 'incoming' | 'streaming'): Promise<string | null> {
    const why = whyItWaits(await this.queue(kind), await this.pass(), this.now, this.server.name, await this.failure());
    // Such as a full disk.
    const problems = why === null ? [] : await this.directories();
    return why === null ? null : [why, ...problems].join('; ');
  }

  /** What waits there and needs somebody to look at it; null when all goes its way. */
  async trouble(kind: 'incoming' | 'streaming'): Promise<string | null> {
    const queue = await this.queue(kind);
    const failed = queue.first !== null && (await this.failure()) !== null;
    const { headers, config } = this.server;
    const patience = headers.isOff ? config.options.incomplete_wal_timeout : 0;
    return failed || isStuck(queue, await this.pass(), this.now, patience) ? this.whyItWaits(kind) : null;
  }

  /** Why no WAL comes into the archive; `ever`: none did yet. */
  async whyNothingComes(ever: boolean, signal: AbortSignal): Promise<string> {
    const { name, config } = this.server;
    const { archiver, streaming_archiver, errors_directory } = config.options;
    if (config.passive) return 'this server is passive: WAL comes from its primary node, by a Barman there and here';
    const reasons: string[] = [];
    if (archiver) {
      const { directory } = await this.queue('incoming');
      const waits = await this.whyItWaits('incoming');
      const missing = `nothing ${ever ? 'ever arrived' : 'waits'} in ${directory}`;
      const status = async () => fileArchivalStatus(await this.remote(signal));
      reasons.push(waits ?? `${missing}: ${whyNothingIsDelivered(await status(), ever, this.now)}`);
    }
    if (streaming_archiver) {
      const waits = await this.whyItWaits('streaming');
      const noneComplete = `receive-wal receives WAL, and no segment is complete yet; to complete one: walwarden switch-wal --force --archive ${name}`;
      const nothing = whyNothingIsReceived(await this.streaming(signal), this.now);
      reasons.push(waits ?? nothing ?? noneComplete);
    }
    const errors = await errorNames(errors_directory);
    if (errors.length > 0) reasons.push(`${count(errors.length, 'file')} in errors: walwarden errors explain ${name}`);
    return reasons.join('; ');
  }
}
