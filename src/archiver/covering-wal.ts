import { WalwardenError } from '../errors.ts';
import { plainBytes, type ReadingKeys } from '../storage/stored-content.ts';
import type { WalStorageStrategy } from '../storage/wal-storage-strategy.ts';
import { parseTimelineHistory } from '../wal/timeline-history.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import { endOfContent } from '../wal/padding.ts';
import { parseWalName, segmentNumber, type ParsedWalName, type WalName } from '../wal/wal-name.ts';

export interface CoveringParts {
  readonly strategy: WalStorageStrategy;
  readonly catalogue: { readBatches(): AsyncIterable<readonly WalFileInfo[]> };
  readonly keys: ReadingKeys;
}

/** The bytes of a partial segment without the zeros that it was padded with; empty when it holds nothing else. */
export function withoutPadding(plain: Buffer): Buffer {
  return plain.subarray(0, endOfContent(plain));
}

/**
 * The archived file that holds every byte of a partial segment: the complete
 * one, another partial one that is longer, or, where a timeline was left in this
 * segment, that of a later timeline, which begins with the same bytes. Null when
 * none does, or none can be read.
 */
export async function findCovering(
  parts: CoveringParts,
  partial: ParsedWalName,
  content: Buffer,
): Promise<WalName | null> {
  for (const candidate of await candidates(parts, partial)) {
    const stored = await parts.strategy.read(candidate);
    if (stored === null) continue;
    try {
      const plain = await plainBytes(stored, candidate, parts.keys);
      if (plain.length >= content.length && plain.subarray(0, content.length).equals(content)) return candidate;
    } catch (error) {
      // Damaged, or encrypted without a key at hand: it proves nothing.
      if (!(error instanceof WalwardenError)) throw error;
    }
  }
  return null;
}

/**
 * Whether an archived history file says that the timeline of a partial segment
 * was left in that segment, so that nobody writes more of it.
 */
export async function isTimelineLeftIn(
  { strategy, catalogue, keys }: CoveringParts,
  partial: ParsedWalName,
  segmentSize: number,
): Promise<boolean> {
  const number = segmentNumber(partial, segmentSize);
  for await (const infos of catalogue.readBatches()) {
    for (const { name } of infos) {
      const parsed = parseWalName(name);
      if (parsed?.kind !== 'history' || parsed.timeline <= partial.timeline) continue;
      const stored = await strategy.read(name);
      if (stored === null) continue;
      try {
        const text = (await plainBytes(stored, name, keys)).toString('utf8');
        for (const { timeline, switchPoint } of parseTimelineHistory(text, name)) {
          // Its last byte is the one before.
          if (timeline === partial.timeline && (switchPoint - 1n) / BigInt(segmentSize) === number) return true;
        }
      } catch (error) {
        if (!(error instanceof WalwardenError)) throw error;
      }
    }
  }
  return false;
}

/** Archived segments of the same number, complete or not, on this timeline and later ones: the likeliest first. */
async function candidates({ catalogue }: CoveringParts, partial: ParsedWalName): Promise<WalName[]> {
  const found: ParsedWalName[] = [];
  for await (const infos of catalogue.readBatches()) {
    for (const { name } of infos) {
      const parsed = parseWalName(name);
      if (parsed === undefined || (parsed.kind !== 'segment' && parsed.kind !== 'partial')) continue;
      const sameNumber = parsed.log === partial.log && parsed.segment === partial.segment;
      if (sameNumber && parsed.timeline >= partial.timeline) found.push(parsed);
    }
  }
  return found.sort((a, b) => a.timeline - b.timeline || a.name.length - b.name.length).map(({ name }) => name);
}
