import { findServer } from '../config/config.ts';
import { WalwardenError } from '../errors.ts';
import { LITTLE_PATIENCE } from '../server-settings.ts';
import { listNow } from '../server-listing.ts';
import { acknowledgeGap, gapsOf } from '../server-gaps.ts';
import { emptyFiles, oddSizesOf, withEmptyFiles } from '../server-sizes.ts';
import { openServer } from '../server.ts';
import { whatHealsMissing } from '../health/listing-check.ts';
import { oneLine, formatTime } from '../words.ts';
import type { Gap } from '../wal/gaps.ts';
import { parseWalName, walName, type WalName } from '../wal/wal-name.ts';
import { summariseWals, type SegmentRange, type TimelineSummary } from '../wal/wal-ranges.ts';
import { count, formatBytes, type CommandContext, type Report } from './command.ts';

export interface ListWalsOptions {
  readonly timeline?: number;
  readonly gaps?: boolean;
  readonly stored?: boolean;
  /** `WAL..WAL`, or one name. */
  readonly acknowledgeGap?: string;
  readonly reason?: string;
}

/** Files of another size that are told by name. */
const MOST_TOLD = 20;

const DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024;

/** `list-wals SERVER`: what the catalogue knows, by timeline. With `gaps`, exit status 1 tells that something is missing. */
export async function listWals(context: CommandContext, name: string, options: ListWalsOptions): Promise<Report> {
  if (options.stored === true) return listStored(context, name, options);
  if (options.acknowledgeGap !== undefined || options.reason !== undefined) return acknowledge(context, name, options);
  // The catalogue is here: nobody should wait for a bucket to see it.
  const patience = LITTLE_PATIENCE;
  await using server = openServer(context.config, findServer(context.config, name), context.logger, { patience });
  const segmentSize = (await server.segmentSize()) ?? DEFAULT_SEGMENT_SIZE;
  let damage = { lines: 0, text: '' };
  const onProblem = (line: number, text: string): void => {
    const first = `line ${line}: ${JSON.stringify(text.slice(0, 80))}`;
    damage = { lines: damage.lines + 1, text: damage.lines === 0 ? first : damage.text };
  };
  const odd = await oddSizesOf(server);
  const lines = withEmptyFiles(server.catalogue.readBatches(onProblem), emptyFiles(odd));
  const summaries = await summariseWals(lines, segmentSize);
  const found = await gapsOf(server, summaries, segmentSize);
  const all = summaries.map((summary) => ({ ...summary, gaps: found.get(summary.timeline) ?? [] }));
  if (damage.lines > 0) {
    context.logger.error(
      { server: name, lines: damage.lines },
      `the catalogue has ${count(damage.lines, 'damaged line')}, the first is ${damage.text}; walwarden rebuild-xlogdb ${name} makes it anew`,
    );
  }
  for (const { name: wal, stored, listed } of odd.slice(0, MOST_TOLD)) {
    context.logger.error(
      { server: name, wal, stored, listed },
      `${wal} is stored with ${stored} bytes, and its line says ${listed}: is it damaged? walwarden errors explain ${name} tells when a good copy is delivered again; when it is not, walwarden rebuild-xlogdb ${name} corrects the line`,
    );
  }
  const timelines = all.filter(({ timeline }) => options.timeline === undefined || timeline === options.timeline);
  const gaps = timelines.flatMap((summary) => summary.gaps);
  const json = {
    server: name,
    segmentSize,
    timelines: timelines.map((summary) => ({
      ...summary,
      byCompression: Object.fromEntries(summary.byCompression),
    })),
    oddSizes: odd,
  };
  if (options.gaps === true) {
    const text = gaps.length === 0 ? `Server ${name}: no gaps\n` : gaps.map((gap) => `${formatGap(gap)}\n`).join('');
    const open = gaps.filter(({ acknowledged }) => acknowledged === undefined);
    return {
      text,
      json: { server: name, segmentSize, gaps, oddSizes: odd },
      exitCode: open.length + damage.lines + odd.length === 0 ? 0 : 1,
    };
  }
  const text =
    timelines.length === 0
      ? `Server ${name}: nothing archived${options.timeline === undefined ? '' : ` of timeline ${options.timeline}`} yet\n`
      : `Server ${name}, segments of ${formatBytes(segmentSize)}:\n${timelines.map(formatTimeline).join('')}`;
  return { text, json, exitCode: damage.lines + odd.length === 0 ? 0 : 1 };
}

function formatTimeline(summary: Omit<TimelineSummary, 'gaps'> & { readonly gaps: readonly Gap[] }): string {
  const compressions = [...summary.byCompression].map(
    ([compression, { files, bytes }]) => `${compression} ${count(files, 'file')} ${formatBytes(bytes)}`,
  );
  const others = [
    summary.partials > 0 ? count(summary.partials, 'partial file') : '',
    summary.backups > 0 ? count(summary.backups, 'backup label') : '',
    summary.histories > 0 ? count(summary.histories, 'history file') : '',
  ].filter((part) => part !== '');
  const lines = [
    `\tTimeline ${summary.timeline}: ${count(summary.segments, 'segment')}${others.length > 0 ? `, ${others.join(', ')}` : ''}, ${formatBytes(summary.stored.bytes)} stored (${compressions.join(', ')})`,
    ...summary.ranges.map((range) => `\t\t${formatRange(range)}`),
    ...summary.gaps.map((gap) => `\t\tMISSING ${formatGap(gap)}`),
  ];
  if (summary.encrypted.files > 0) lines.push(`\t\t${count(summary.encrypted.files, 'file')} encrypted`);
  return `${lines.join('\n')}\n`;
}

function formatGap(gap: Gap): string {
  const { acknowledged } = gap;
  // A missing history file is no segment.
  const range = gap.segments === 0 ? gap.first : formatRange(gap);
  if (acknowledged === undefined) return range;
  return `${range}, acknowledged ${formatTime(acknowledged.at)}: ${acknowledged.reason}`;
}

function formatRange({ first, last, segments }: SegmentRange): string {
  return segments === 1 ? first : `${first} - ${last} (${count(segments, 'segment')})`;
}

/** `list-wals --stored SERVER`: lists the archive now, as cron and the daemon do once a day. Exit status 1 tells that files are missing. */
async function listStored(context: CommandContext, name: string, options: ListWalsOptions): Promise<Report> {
  if (options.gaps === true || options.timeline !== undefined) {
    throw new WalwardenError('usage', '--stored looks at all files: expected neither --gaps nor --timeline with it');
  }
  await using server = openServer(context.config, findServer(context.config, name), context.logger, context);
  const { files, bytes, missing, unlisted, oddSizes } = await listNow(server, context.drain);
  const odd = oddSizes.first.map(({ name: wal, stored, listed }) => `${wal} (${stored} bytes, ${listed} by its line)`);
  const text =
    `Server ${name}: ${count(files, 'file')} stored, ${formatBytes(bytes)}\n` +
    formatFinds('MISSING, though the catalogue has it', missing.count, missing.first) +
    formatFinds('NOT in the catalogue', unlisted.count, unlisted.first) +
    formatFinds('OF ANOTHER SIZE than its line says', oddSizes.count, odd) +
    (missing.count === 0 ? '' : `\t${whatHealsMissing(name)}\n`) +
    (unlisted.count === 0 ? '' : `\tstored files get their lines by walwarden rebuild-xlogdb ${name}\n`);
  return {
    text,
    json: { server: name, files, bytes, missing, unlisted, oddSizes },
    exitCode: missing.count === 0 ? 0 : 1,
  };
}

function formatFinds(what: string, total: number, first: readonly string[]): string {
  const more = total > first.length ? `\t${total - first.length} more ${what}\n` : '';
  return `${first.map((find) => `\t${what}: ${find}\n`).join('')}${more}`;
}

/** `list-wals --acknowledge-gap WAL..WAL --reason TEXT SERVER`: what is missing there is no alarm any more, until it is filled. */
async function acknowledge(context: CommandContext, name: string, options: ListWalsOptions): Promise<Report> {
  const reason = oneLine(options.reason ?? '');
  if (options.acknowledgeGap === undefined || reason === '') {
    throw new WalwardenError('usage', 'expected --acknowledge-gap WAL..WAL together with --reason TEXT');
  }
  const range = parseRange(options.acknowledgeGap);
  await using server = openServer(context.config, findServer(context.config, name), context.logger, context);
  const acknowledged = await acknowledgeGap(server, range, reason);
  const parts = acknowledged.map((part) => (part.segments === 0 ? part.first : formatRange(part)));
  context.logger.warn(
    { server: name, gaps: parts, reason },
    `missing WAL of ${name} was acknowledged: ${parts.join(', ')}`,
  );
  const text = parts.map((part) => `Server ${name}: ${part} acknowledged as missing: ${reason}\n`).join('');
  return { text, json: { server: name, acknowledged, reason } };
}

/** Two segments of one timeline in their order, or one name: of a segment, or of a history file. */
function parseRange(text: string): { first: WalName; last: WalName } {
  const [from = '', to = from, ...others] = text.split('..');
  const [first, last] = [walName(from), walName(to)].map(upperCase);
  const kinds = [from, to].map((end) => parseWalName(end)?.kind);
  const isRange = kinds.every((kind) => kind === 'segment') && from.slice(0, 8) === to.slice(0, 8);
  const isHistory = kinds.every((kind) => kind === 'history') && from === to;
  if (first === undefined || last === undefined || others.length > 0 || first > last || !(isRange || isHistory)) {
    throw new WalwardenError(
      'usage',
      `--acknowledge-gap: expected two segments of one timeline as FIRST..LAST, one segment, or one history file, found ${JSON.stringify(text)}`,
    );
  }
  return { first, last };
}

/** As gaps are named. */
function upperCase(name: WalName): WalName {
  return walName(name.endsWith('.history') ? `${name.slice(0, 8).toUpperCase()}.history` : name.toUpperCase());
}
