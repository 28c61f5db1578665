import { WalwardenError } from '../errors.ts';
import { parseLsn, type Lsn } from './lsn.ts';

/** One line of a history file: this timeline was left at this LSN. */
export interface TimelineSwitch {
  readonly timeline: number;
  readonly switchPoint: Lsn;
  readonly reason: string;
}

const LINE = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)(?:\s+(.*))?$/;

/**
 * Parses a timeline history file (PostgreSQL: access/transam/timeline.c,
 * readTimeLineHistory): lines of parent timeline, switch point and reason, `#`
 * comments and blank lines. Throws `invalid-wal` naming the line.
 */
export function parseTimelineHistory(text: string, name: string): TimelineSwitch[] {
  const switches: TimelineSwitch[] = [];
  let last = 0;
  for (const [index, line] of text.split('\n').entries()) {
    if (/^\s*(#|$)/.test(line)) continue;
    const match = LINE.exec(line);
    if (match === null) {
      throw new WalwardenError(
        'invalid-wal',
        `${name}, line ${index + 1}: expected a timeline, its switch point and a reason, found ${line.length} characters that are not these`,
      );
    }
    const timeline = Number(match[1]);
    if (timeline <= last || timeline >= Number.parseInt(name.slice(0, 8), 16)) {
      throw new WalwardenError(
        'invalid-wal',
        `${name}, line ${index + 1}: timelines must increase and stay below the file's own, found ${timeline} after ${last}`,
      );
    }
    last = timeline;
    switches.push({ timeline, switchPoint: parseLsn(match[2] ?? ''), reason: match[3] ?? '' });
  }
  return switches;
}
