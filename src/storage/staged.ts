import type { CompressionName, CompressionSettings } from '../compression/codec.ts';
import type { WalName } from '../wal/wal-name.ts';
import type { DeliveredKeys } from './delivered-content.ts';
import type { FileIdentity } from './file-identity.ts';
import type { TakingRules } from './taking.ts';

/** What every kind of staging is told of a file; a plain record, so that it crosses threads. */
export interface TransformTask {
  readonly name: WalName;
  readonly source: string;
  readonly identity: FileIdentity;
  readonly compression: CompressionSettings | null;
  /** What a file is opened with that arrived compressed. */
  readonly delivered: DeliveredKeys;
  readonly encryption: { readonly keyId: string; readonly homedir?: string | undefined } | null;
  readonly rules: TakingRules;
}

/** What packing is told of a file. */
export interface PackTask extends TransformTask {
  /** To hold what is stored, and at least as large as the file; it goes along, and comes back with the bytes in it. */
  readonly memory: ArrayBuffer | null;
}

/** What staging found out; the sizes are in bytes. */
export interface StagedFacts {
  readonly outcome: 'staged';
  readonly storedSize: number;
  readonly compression: CompressionName | null;
  readonly encryption: 'gpg' | null;
  /** Of a segment's first page; null for backup labels and history files. */
  readonly systemIdentifier: bigint | null;
  readonly majorVersion: number | null;
  readonly magic: number | null;
  /** In bytes. */
  readonly segmentSize: number | null;
  /** Of a segment: its WAL ends inside, and no switch ended it, as far as can be told. */
  readonly endsInside: boolean;
  /** SHA-256 of the plain and of the stored bytes, where somebody needs them: of encrypted files, and of packed ones. */
  readonly digests: { readonly plain: string; readonly stored: string } | null;
  /** Where the stored bytes stay in memory until they are sent: them, and how many they were before. */
  readonly packed?: { readonly bytes: Uint8Array<ArrayBuffer>; readonly plainSize: number } | undefined;
}

export type StageFailure =
  /** The file is not what its name promises (`invalid`), or not whole yet (`incomplete`). */
  | {
      readonly outcome: 'invalid' | 'incomplete';
      readonly reason: string;
      /** The first page is right, and a later one isn't. */
      readonly broken?: boolean | undefined;
    }
  /** The source went away or changed while we read it: a new arrival, for the next pass. */
  | { readonly outcome: 'changed'; readonly reason: string }
  /** The source's own inode can't be trusted to be durable: stage it again, by copying. */
  | { readonly outcome: 'restage'; readonly reason: string }
  /** `source`: this file can't be read, others can. `destination`: nothing more can be stored. */
  | {
      readonly outcome: 'failed';
      readonly side: 'source' | 'destination';
      readonly reason: string;
      /** What to do about it, where that is known. */
      readonly hint?: string | undefined;
      readonly errno: string | null;
    };

export type StageResult = StagedFacts | StageFailure;
