import { findEndOfWal } from './end-of-wal.ts';
import { decodeLongPageHeader, hexOfMagic, type LongPageHeader } from './page-header.ts';
import { pagesOfSegment } from './pages.ts';
import { followRecords, rightRecords } from './records.ts';
import { judgeContent, type OpaqueWal } from './verify.ts';
import type { ParsedWalName } from './wal-name.ts';

/** A copy of a WAL file, as far as it could be read. */
export type CopyContent =
  /** Neither compressed nor encrypted. */
  | { readonly kind: 'plain'; readonly bytes: Buffer }
  /** All of it was read, and it does not decompress or decrypt. `beginning`: the plain bytes that came out before. */
  | { readonly kind: 'broken'; readonly reason: string; readonly beginning: Buffer }
  /** `lost`: the disk does not give it back; otherwise a key, a program or a permission is missing here. */
  | { readonly kind: 'unreadable'; readonly reason: string; readonly lost: boolean };

/** What a copy proves about itself. */
export type CopyState =
  | { readonly state: 'whole'; readonly text: string }
  /** Its WAL ends inside the segment, without a switch. `certain`: there is no beginning of another record behind it. */
  | { readonly state: 'ends'; readonly end: number; readonly certain: boolean; readonly text: string }
  /** Nothing speaks against it, and its records are not judged here. */
  | { readonly state: 'unjudged'; readonly text: string }
  | { readonly state: 'damaged'; readonly text: string }
  | { readonly state: 'unclear'; readonly text: string };

/** Which of two copies of a WAL file, the archived one and another, is the right one. */
export type Judgement =
  | { readonly result: 'same' }
  /** The archived one is proved damaged, or ends where the other one goes on; and that one repeats all that is right in it. */
  | { readonly result: 'replaceable'; readonly text: string }
  /** The archived one has all the WAL of the other one. */
  | { readonly result: 'covered'; readonly text: string }
  /** The other one is damaged, and the archived one is not. */
  | { readonly result: 'delivered-damaged'; readonly text: string }
  | { readonly result: 'both-damaged'; readonly text: string }
  /** Both hold WAL that verifies, and not the same. */
  | { readonly result: 'conflict'; readonly text: string }
  /** `forcible`: what speaks for the other one is all that can be found out here. */
  | { readonly result: 'unclear'; readonly text: string; readonly forcible: boolean };

const damaged = (text: string): CopyState => ({ state: 'damaged', text });
const unclear = (text: string): CopyState => ({ state: 'unclear', text });

/**
 * What a copy proves about itself: damage is called so only where no healthy
 * copy could look like it. A record that goes on in another segment, or that the
 * server gave up after a crash, proves nothing.
 */
export function judgeCopy(parsed: ParsedWalName, content: CopyContent, opaque: OpaqueWal | null = null): CopyState {
  if (content.kind === 'unreadable') return unclear(content.reason);
  if (content.kind === 'broken') return damaged(content.reason);
  const { bytes } = content;
  if (bytes.length === 0) return damaged('it is empty');
  const isSegment = parsed.kind === 'segment' || parsed.kind === 'partial';
  if (isSegment && opaque !== null && opaque.segmentSize === null)
    return unclear('the size of its segments is not known');
  const verdict = judgeContent(parsed, bytes, opaque);
  // Nothing is writing it any more.
  if (verdict.verdict !== 'valid') return damaged(verdict.reason);
  const { header } = verdict;
  if (!isSegment) return { state: 'whole', text: 'it reads to its end' };
  if (header === null) return { state: 'unjudged', text: 'its headers are not read here (verify_wal_header = off)' };
  return parsed.kind === 'partial' ? judgePartial(bytes) : judgeSegment(parsed, bytes, header);
}

/** It may have holes: its host may have lost power. */
function judgePartial(bytes: Buffer): CopyState {
  const found = findEndOfWal(bytes);
  if (found === null) return unclear('where its WAL ends can not be told');
  return { state: 'ends', ...found, text: `its WAL ends at byte ${found.end}` };
}

function judgeSegment(parsed: ParsedWalName, bytes: Buffer, header: LongPageHeader): CopyState {
  const { broken } = pagesOfSegment(bytes, header, parsed.timeline);
  if (broken !== null) return damaged(broken.reason);
  const found = followRecords(bytes, header, parsed.timeline);
  switch (found.ending) {
    case 'segment-end':
      return { state: 'whole', text: 'its records go on to its last byte' };
    case 'switch':
      return { state: 'whole', text: `its records go on to a switch at byte ${found.end}` };
    case 'goes-on':
      return { state: 'whole', text: 'its records go on into the one that goes on behind it' };
    case 'inside':
    case 'damaged':
    case 'unknown':
  }
  // The records of tomorrow may look otherwise: that they verify is proof, that they don't is none.
  if (header.majorVersion === null) {
    return {
      state: 'unjudged',
      text: `its page magic is ${hexOfMagic(header.magic)}, whose records are not known here`,
    };
  }
  if (!header.littleEndian)
    return { state: 'unjudged', text: 'the records of a big-endian machine are not judged here' };
  if (found.ending === 'unknown') return unclear(found.reason);
  if (found.ending === 'damaged') return damaged(`${found.reason}, and WAL of this segment follows it`);
  const { end, certain } = found;
  return { state: 'ends', end, certain, text: `its WAL ends inside the segment, at byte ${end}, without a switch` };
}

/** Decides which of two copies of one WAL file is the right one, by what both prove. */
export function judgeCopies(
  parsed: ParsedWalName,
  archived: CopyContent,
  delivered: CopyContent,
  opaque: OpaqueWal | null = null,
): Judgement {
  if (archived.kind === 'plain' && delivered.kind === 'plain' && archived.bytes.equals(delivered.bytes)) {
    return { result: 'same' };
  }
  const [there, here] = [judgeCopy(parsed, archived, opaque), judgeCopy(parsed, delivered, opaque)];
  const text = `the archived copy ${saying(there)}; this one ${saying(here)}`;
  if (here.state === 'damaged') {
    if (there.state === 'damaged') return { result: 'both-damaged', text };
    if (there.state === 'unclear' || there.state === 'unjudged') return { result: 'unclear', text, forcible: false };
    return { result: 'delivered-damaged', text };
  }
  if (delivered.kind !== 'plain' || here.state === 'unclear') return { result: 'unclear', text, forcible: false };
  switch (there.state) {
    case 'unclear': {
      const isLost = archived.kind === 'unreadable' && archived.lost;
      const isGood = isComplete(parsed, here) || here.state === 'unjudged';
      return { result: 'unclear', text, forcible: isLost && isGood };
    }
    case 'unjudged':
      return { result: 'unclear', text, forcible: false };
    case 'damaged': {
      if (here.state === 'unjudged') return { result: 'unclear', text, forcible: true };
      if (!isComplete(parsed, here)) return { result: 'unclear', text, forcible: false };
      const other = firstContradiction(parsed, archived, delivered.bytes);
      if (other === null) return { result: 'replaceable', text };
      return { result: 'conflict', text: `${text}; but what is right in the archived copy ${other}` };
    }
    case 'whole':
    case 'ends':
      return judgeLengths(text, there, here, archived, delivered.bytes);
  }
}

function saying(state: CopyState): string {
  switch (state.state) {
    case 'whole':
      return `is whole: ${state.text}`;
    case 'ends':
      return `is not damaged: ${state.text}`;
    case 'unjudged':
      return `has the right size, but ${state.text}`;
    case 'damaged':
      return `is damaged: ${state.text}`;
    case 'unclear':
      return `can not be judged: ${state.text}`;
  }
}

/** Whether it may take the place of a damaged copy. A partial segment is never more than a beginning. */
function isComplete(parsed: ParsedWalName, here: CopyState): boolean {
  return here.state === 'whole' || (parsed.kind === 'partial' && here.state === 'ends' && here.certain);
}

/** Neither is damaged: one may be the beginning of the other. */
function judgeLengths(
  text: string,
  there: CopyState & { state: 'whole' | 'ends' },
  here: CopyState,
  archived: CopyContent,
  delivered: Buffer,
): Judgement {
  if (archived.kind !== 'plain') return { result: 'unclear', text, forcible: false };
  if (here.state === 'unjudged') return { result: 'unclear', text, forcible: false };
  const ends = (state: CopyState): number => (state.state === 'ends' ? state.end : delivered.length);
  const [endThere, endHere] = [ends(there), ends(here)];
  const end = Math.min(endThere, endHere);
  const isBeginning = end > 0 && archived.bytes.subarray(0, end).equals(delivered.subarray(0, end));
  if (!isBeginning) return { result: 'conflict', text };
  if (endHere > endThere) {
    return { result: 'replaceable', text: `${text}; it begins with all the WAL of the archived copy, and goes on` };
  }
  // Where one is cut in the middle of a record, there may be more of it than can be followed.
  if (here.state !== 'ends' || !here.certain) return { result: 'conflict', text };
  return { result: 'covered', text: `${text}; the archived copy begins with all the WAL of this one` };
}

/** What is right in a damaged copy and is not repeated by another one; null when everything is. */
function firstContradiction(parsed: ParsedWalName, archived: CopyContent, delivered: Buffer): string | null {
  const left = archived.kind === 'plain' ? archived.bytes : archived.kind === 'broken' ? archived.beginning : null;
  if (left === null) return null;
  if (parsed.kind === 'backup') return null;
  if (parsed.kind === 'history') {
    const lines = rightLines(parsed, left);
    return delivered.subarray(0, lines.length).equals(lines) ? null : 'is another history';
  }
  const decoded = decodeLongPageHeader(delivered);
  if (!decoded.ok) return null;
  for (const { start, end } of rightRecords(left.subarray(0, delivered.length), decoded.header, parsed.timeline)) {
    if (left.subarray(start, end).equals(delivered.subarray(start, end))) continue;
    return `is another WAL: its record at byte ${start} is not in this one`;
  }
  return null;
}

/** The lines of a history file up to the first that is none. */
function rightLines(parsed: ParsedWalName, bytes: Buffer): Buffer {
  let end = 0;
  for (let next = bytes.indexOf('\n') + 1; next > 0; next = bytes.indexOf('\n', next) + 1) {
    if (judgeContent(parsed, bytes.subarray(0, next)).verdict !== 'valid') break;
    end = next;
  }
  return bytes.subarray(0, end);
}
