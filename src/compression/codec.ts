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
  readonly level?: number | 'low' | 'medium' | 'high';
  /** Shell filters and magic bytes of `custom`. */
  readonly custom?: CustomFilters;
}

export interface CustomFilters {
  readonly compress?: string;
  readonly decompress?: string;
  /** Leading bytes by which a stored file is recognised. */
  readonly magic?: Uint8Array;
}
