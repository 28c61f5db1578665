import { decodeLongPageHeader, LONG_PAGE_HEADER_SIZE, type LongPageHeader } from './page-header.ts';
import { PageReader, type BrokenPage } from './pages.ts';
import { parseTimelineHistory } from './timeline-history.ts';
import { isSegmentSize, segmentStart, segmentsPerLog, type ParsedWalName } from './wal-name.ts';
import { messageOf } from '../errors.ts';

/**
 * What the (decompressed) bytes of a file say about its name.
 * `incomplete`: a writer may still be at it. `invalid`: no more bytes would make it right.
 */
export type Verdict =
  | { readonly verdict: 'valid'; readonly header: LongPageHeader | null }
  | { readonly verdict: 'incomplete'; readonly reason: string }
  | {
      readonly verdict: 'invalid';
      readonly reason: string;
      /** The first page is right, and this one is why the segment isn't taken. */
      readonly broken?: BrokenPage | undefined;
    };

const incomplete = (reason: string): Verdict => ({ verdict: 'incomplete', reason });
const invalid = (reason: string): Verdict => ({ verdict: 'invalid', reason });

/** Small files are read whole to be judged; PostgreSQL's are a few hundred bytes. */
export const MAX_TEXT_FILE_SIZE = 1024 * 1024;

/** WAL whose headers can't be read (`verify_wal_header = off`), because they are encrypted, say. */
export interface OpaqueWal {
  /** What the server says of its segments, in bytes; null while it is not known. */
  readonly segmentSize: number | null;
}

/**
 * Judges a segment (or a partial one, which PostgreSQL and pg_receivewal pad to
 * full size) by its first page and its size in bytes. That is all that is asked
 * of WAL that is handed out: PostgreSQL judges the rest.
 *
 * A page's timeline may be an ancestor's: after a promotion, the segment that
 * holds the switch point begins with a page of the old timeline. Ancestors are
 * not looked up, because a history file may be missing or come later; a page of
 * a later timeline than the name's is impossible.
 */
export function judgeSegment(
  parsed: ParsedWalName,
  head: Buffer,
  size: number,
  opaque: OpaqueWal | null = null,
): Verdict {
  if (opaque !== null) return judgeSize(parsed, size, opaque);
  if (size < LONG_PAGE_HEADER_SIZE) return incomplete(`${size} bytes, less than a page header`);
  const decoded = decodeLongPageHeader(head);
  if (!decoded.ok) return invalid(decoded.reason);
  const { header } = decoded;
  if (!isSegmentSize(header.segmentSize)) {
    return invalid(`its header declares an impossible segment size of ${header.segmentSize} bytes`);
  }
  if (parsed.segment >= segmentsPerLog(header.segmentSize)) {
    return invalid(
      `its header declares segments of ${header.segmentSize} bytes, and with these no segment has the number of its name`,
    );
  }
  const expected = segmentStart(parsed, header.segmentSize);
  if (header.pageAddress !== expected) {
    return invalid(
      `its first page has the address 0x${header.pageAddress.toString(16)}, and its name means 0x${expected.toString(16)}`,
    );
  }
  if (header.timeline === 0 || header.timeline > parsed.timeline) {
    return invalid(`its first page is of timeline ${header.timeline}, and its name of timeline ${parsed.timeline}`);
  }
  if (size < header.segmentSize) return incomplete(`${size} of ${header.segmentSize} bytes`);
  if (size > header.segmentSize) {
    return invalid(`${size} bytes, but its header declares segments of ${header.segmentSize} bytes`);
  }
  return { verdict: 'valid', header };
}

/** All that can be said of a segment without its header. */
function judgeSize(parsed: ParsedWalName, size: number, { segmentSize }: OpaqueWal): Verdict {
  if (segmentSize === null) {
    return incomplete(
      "verify_wal_header is off, and the size of the server's segments is not known: the server can't be asked, and wal_segment_size is not set",
    );
  }
  if (parsed.segment >= segmentsPerLog(segmentSize)) {
    return invalid(
      `the server has segments of ${segmentSize} bytes, and with these no segment has the number of its name`,
    );
  }
  if (size < segmentSize) return incomplete(`${size} of ${segmentSize} bytes`);
  if (size > segmentSize) return invalid(`${size} bytes, and the server has segments of ${segmentSize} bytes`);
  return { verdict: 'valid', header: null };
}

/** Judges the whole text of a backup label or a history file. */
export function judgeTextFile(parsed: ParsedWalName, content: Buffer): Verdict {
  if (content.length === 0) return incomplete('empty');
  if (content.length > MAX_TEXT_FILE_SIZE) return invalid(`${content.length} bytes is no ${parsed.kind} file`);
  const text = content.toString('utf8');
  if (text.includes('\0')) return invalid(`no ${parsed.kind} file: it holds binary data`);
  return parsed.kind === 'history' ? judgeHistory(parsed, text) : judgeBackupLabel(parsed, text);
}

function judgeHistory(parsed: ParsedWalName, text: string): Verdict {
  const cut = text.lastIndexOf('\n') + 1;
  try {
    parseTimelineHistory(text.slice(0, cut), parsed.name);
  } catch (error) {
    return invalid(messageOf(error));
  }
  return cut === text.length ? { verdict: 'valid', header: null } : incomplete('its last line has no end');
}

// A backup history file (access/xlog.c, do_pg_backup_stop) names its first segment at the top, and when it ended near the end.
const START_LINE = /^START WAL LOCATION: [0-9A-F]+\/[0-9A-F]+ \(file ([0-9A-F]{24})\)$/im;
const STOP_LINE = /^STOP TIME: .+\n/m;

function judgeBackupLabel(parsed: ParsedWalName, text: string): Verdict {
  const start = START_LINE.exec(text);
  if (start === null) {
    return text.includes('\n')
      ? invalid('no backup history file: its first line is not START WAL LOCATION')
      : incomplete('its first line has no end');
  }
  if (start[1]?.toUpperCase() !== parsed.name.slice(0, 24).toUpperCase()) {
    return invalid(`it belongs to a backup that started in segment ${start[1]}`);
  }
  if (!text.endsWith('\n') || !STOP_LINE.test(text)) return incomplete('it does not tell when the backup stopped');
  return { verdict: 'valid', header: null };
}

/** Judges plain (decompressed) bytes of any kind of WAL file, as {@link judgeSegment} does. */
export function judgeContent(parsed: ParsedWalName, content: Buffer, opaque: OpaqueWal | null = null): Verdict {
  return parsed.kind === 'segment' || parsed.kind === 'partial'
    ? judgeSegment(parsed, content, content.length, opaque)
    : judgeTextFile(parsed, content);
}

/**
 * For the pages of a segment that is to be taken, once its first page was found
 * valid; null where no more is asked: a partial segment may have holes after a
 * power loss of the host that received it.
 */
export function readerOfPages(parsed: ParsedWalName, first: Verdict): PageReader | null {
  if (first.verdict !== 'valid' || first.header === null || parsed.kind !== 'segment') return null;
  return new PageReader(first.header, parsed.timeline);
}

/** The verdict on a segment that is to be taken, once its reader has seen all pages. */
export function judgePages(first: Verdict, reader: PageReader | null): Verdict {
  const broken = reader?.result.broken ?? null;
  if (broken === null) return first;
  return { verdict: 'invalid', reason: `it is no whole segment: ${broken.reason}`, broken };
}
