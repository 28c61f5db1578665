import type { Command } from './external-program.ts';

/** Barman's names for what `compression` may say. */
export const COMPRESSION_NAMES = [
  'gzip',
  'pygzip',
  'pigz',
  'bzip2',
  'pybzip2',
  'xz',
  'zstd',
  'lz4',
  'snappy',
  'custom',
] as const;

export type CompressionName = (typeof COMPRESSION_NAMES)[number];

/** What a codec needs to know; a plain record, so that it can be sent to a worker thread. */
export interface CompressionSettings {
  readonly compression: CompressionName;
  /** An integer, clipped to the algorithm's range, or a word; the algorithm's `medium` when absent. */
  readonly level?: number | 'low' | 'medium' | 'high' | undefined;
  /** Shell filters and magic bytes of `custom`. */
  readonly custom?: CustomFilters | undefined;
}

export interface CustomFilters {
  readonly compress?: string | undefined;
  readonly decompress?: string | undefined;
  /** Leading bytes by which a stored file is recognised. */
  readonly magic?: Uint8Array | undefined;
}

/** Compresses one file after the other with the same settings; keeps what its codec can use again, so keep it. */
export interface Compressor {
  readonly name: CompressionName;
  /** With its dot; what object stores append to a name. Null for `custom`. */
  readonly extension: string | null;
  /** False for what Barman can't run in memory, and so not with S3: pigz and custom. */
  readonly inMemory: boolean;
  /**
   * A complete compressed file of these bytes, in memory of its own. Blocks
   * the thread with the native codecs: call it on a worker.
   *
   * @throws WalwardenError `program` when an external program is missing or
   * fails, `aborted` when the signal fires while one runs
   */
  compress(data: Uint8Array, signal?: AbortSignal): Promise<Buffer>;
  /**
   * As `compress`, but the result may lie in memory that the next compression
   * of this thread uses again, whichever compressor does it: write it out first.
   * Or it lies in `into`, where a codec can put it there.
   */
  compressTransient(data: Uint8Array, signal?: AbortSignal, into?: Buffer): Promise<Buffer>;
  /**
   * Compresses from one open file to another without holding either in memory;
   * null where a library does it better.
   *
   * @throws WalwardenError `program` when the program is missing or fails
   */
  readonly compressFile: ((source: number, target: number) => Promise<void>) | null;
}

export interface DecompressOptions {
  /** Bytes. More output than this is damage, found before it is allocated. */
  readonly maxSize: number;
  /** Bytes. Data that wants a larger dictionary for its decompression is refused, where that takes memory; no limit unless said. */
  readonly maxDictionary?: number | undefined;
  /** Needed to read `custom`. */
  readonly custom?: CustomFilters | undefined;
  /** Ends an external program, now. */
  readonly signal?: AbortSignal | undefined;
}

export type CompressFunction = (data: Uint8Array, signal?: AbortSignal) => Promise<Buffer>;
/** Takes memory for the result, to use where it is large enough. */
export type TransientCompressFunction = (data: Uint8Array, signal?: AbortSignal, into?: Buffer) => Promise<Buffer>;

/** One row of the table in codecs.ts. */
export interface Codec {
  readonly extension: string | null;
  /** Null where the user says it (custom). */
  readonly magic: Uint8Array | null;
  readonly inMemory: boolean;
  /** Null where there is nothing to choose. */
  readonly levels: LevelRange | null;
  /** The level is already in range. Nothing is loaded or started before the first call of what it returns. */
  compressor(level: number, custom: CustomFilters | undefined): CompressFunction;
  /** The same, but the result is overwritten by the thread's next compression; where that spares a copy. */
  transientCompressor?(level: number): TransientCompressFunction;
  /** The program that does the same from stdin to stdout, where there is one that is worth it. */
  program?(level: number, custom: CustomFilters | undefined): Command | null;
  decompress(data: Uint8Array, options: DecompressOptions): Promise<Buffer>;
  /** The first bytes that it decompresses to, for little memory; null where that can't be told. */
  start?(data: Uint8Array, length: number, options: Omit<DecompressOptions, 'maxSize'>): Promise<Buffer | null>;
}

export interface LevelRange {
  readonly min: number;
  readonly max: number;
  readonly low: number;
  readonly medium: number;
  readonly high: number;
}
