import { WalwardenError } from '../errors.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import type { WalName } from '../wal/wal-name.ts';

/** Lines out of order that are held in memory. Barman and we keep a catalogue sorted: a few may come from a crash or an editor. */
const MOST_LATE = 100_000;

/**
 * The files of a catalogue in the order of their names, one line a name, some thousands at a time. Of several lines the
 * last one counts, as everywhere. The catalogue is read twice, so that only lines out of order are held in memory.
 *
 * @throws WalwardenError `catalogue` when more lines are out of order than memory shall hold
 */
export async function* sortedInfos(
  read: () => AsyncIterable<readonly WalFileInfo[]>,
): AsyncGenerator<readonly WalFileInfo[]> {
  const late = await linesOutOfOrder(read());
  const coming = [...late.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  let next = 0;
  let highest: WalName | '' = '';
  for await (const infos of read()) {
    const batch: WalFileInfo[] = [];
    for (const info of infos) {
      if (info.name <= highest) continue;
      highest = info.name;
      for (let other = coming[next]; other !== undefined && other.name < info.name; other = coming[next]) {
        batch.push(other);
        next += 1;
      }
      const instead = coming[next]?.name === info.name ? coming[next] : undefined;
      if (instead !== undefined) next += 1;
      batch.push(instead ?? info);
    }
    if (batch.length > 0) yield batch;
  }
  if (next < coming.length) yield coming.slice(next);
}

async function linesOutOfOrder(batches: AsyncIterable<readonly WalFileInfo[]>): Promise<Map<WalName, WalFileInfo>> {
  const late = new Map<WalName, WalFileInfo>();
  let highest: WalName | '' = '';
  for await (const infos of batches) {
    for (const info of infos) {
      if (info.name > highest) highest = info.name;
      else late.set(info.name, info);
    }
    if (late.size > MOST_LATE) {
      throw new WalwardenError('catalogue', `more than ${MOST_LATE} lines of the catalogue are out of order`, {
        hint: 'walwarden rebuild-xlogdb SERVER makes it anew, sorted',
      });
    }
  }
  return late;
}
