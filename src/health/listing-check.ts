import { count, formatMoment, formatSpan } from '../words.ts';
import type { WalName } from '../wal/wal-name.ts';
import type { CheckResult } from './check-strategy.ts';

/** What is known of the last listing of an archive; times in milliseconds since the epoch. */
export interface ListingFacts {
  readonly finishedAt: number;
  readonly files: number;
  readonly missing: { readonly count: number; readonly first: readonly WalName[] };
  readonly unlisted: { readonly count: number };
  /** Stored files whose size is not that of their line, or 0. */
  readonly oddSizes?: {
    readonly count: number;
    readonly first: readonly { readonly name: WalName; readonly stored: number }[];
  };
}

/** What was seen of some stored files at this moment. */
export interface SeenFiles {
  /** Of how many it was found out whether they are stored. */
  readonly looked: number;
  /** They have a line, and are not stored. */
  readonly missing: readonly WalName[];
  /** Those of another size than their line says. */
  readonly oddSizes?: readonly { readonly name: WalName; readonly stored: number }[];
  /** Why nothing can be said of the others; null when there are no others. */
  readonly untold: string | null;
}

export interface ListingCheck {
  readonly server: string;
  /** Null when the archive was never listed. */
  readonly listing: ListingFacts | null;
  /** Of the files that were missing in the listing: those that still are. */
  readonly stillMissing: readonly WalName[];
  readonly seen: SeenFiles;
  /** A listing is to be expected: somebody works for this server, and has for a while. */
  readonly expected: boolean;
}

/** The archive is listed once a day: after two, who lists it has stopped. */
const OLD_MS = 2 * 24 * 60 * 60 * 1000;

/** What to do about files that have a line and are not stored. */
export function whatHealsMissing(server: string): string {
  return (
    `put them back from a copy of the archive, then walwarden list-wals --stored ${server}; if there is none, ` +
    `walwarden rebuild-xlogdb ${server} drops their lines: take a base backup, for no recovery gets over what is missing`
  );
}

/**
 * `archived files`: whether what the catalogue has is stored, as far as the last
 * listing and a look at a few files tell. What is missing fails; a listing that is
 * two days old is a warning.
 */
export function checkListing(facts: ListingCheck, now: number): CheckResult {
  const { server, listing, stillMissing, seen, expected } = facts;
  const check = 'archived files';
  // What was missing by name and is no more: only of all that were remembered something can be said.
  const healed = listing === null ? 0 : listing.missing.first.length - stillMissing.length;
  const lost = listing === null ? 0 : listing.missing.count - healed;
  const names = [...new Set([...stillMissing, ...seen.missing])].sort();
  const age = listing === null ? Infinity : now - listing.finishedAt;
  const looked = [
    seen.looked > 0 ? `the newest, the oldest and what lies between, ${count(seen.looked, 'file')}, looked at now` : '',
    seen.untold ?? '',
  ].filter((part) => part !== '');
  const listed = listing === null ? 'never listed' : `listed ${formatMoment(listing.finishedAt, now)}`;
  if (lost > 0 || seen.missing.length > 0) {
    const missing = Math.max(lost, names.length);
    const more = missing > names.length ? `, … (${listed})` : ` (${listed})`;
    const hint = `${count(missing, 'file')} of the catalogue ${missing === 1 ? 'is' : 'are'} not stored: ${names.join(', ')}${more}: ${whatHealsMissing(server)}`;
    return { check, ok: false, hint };
  }
  const known = listing?.oddSizes ?? { count: 0, first: [] };
  const sizes = new Map([...known.first, ...(seen.oddSizes ?? [])].map(({ name, stored }) => [name, stored]));
  const odd = Math.max(known.count, sizes.size);
  if (odd > 0) {
    const first = [...sizes].slice(0, 3).map(([name, stored]) => `${name} (${stored} bytes)`);
    const more = odd > first.length ? ', …' : '';
    const hint = `${count(odd, 'stored file')} of another size than the catalogue says: ${first.join(', ')}${more} (${known.count > 0 ? listed : 'looked at now'}): have a good copy delivered again, then walwarden errors explain ${server}; walwarden list-wals --stored ${server} looks again`;
    return { check, ok: false, hint };
  }
  const unlisted =
    listing === null || listing.unlisted.count === 0
      ? []
      : [`${count(listing.unlisted.count, 'stored file')} without a line: walwarden rebuild-xlogdb ${server}`];
  const again =
    healed > 0 ? [`${count(healed, 'file')} that ${healed === 1 ? 'was' : 'were'} missing then no longer`] : [];
  if (age > OLD_MS && expected) {
    const who = `is walwarden cron, or its daemon, at work? To list it now: walwarden list-wals --stored ${server}`;
    const hint = [`${listed}: ${who}`, ...looked, ...unlisted, ...again].join('; ');
    return { check, ok: true, hint, severity: 'warning' };
  }
  const all =
    listing === null
      ? `never listed: walwarden cron and the daemon do that once a day, walwarden list-wals --stored ${server} at once`
      : `${count(listing.files, 'file')} ${listed}, none missing`;
  const praise = [
    listing === null
      ? 'never listed'
      : `${count(listing.files, 'file')} listed ${formatSpan(Math.max(0, age))} ago, none missing`,
    ...looked,
  ].join('; ');
  return { check, ok: true, hint: [all, ...looked, ...unlisted, ...again].join('; '), praise };
}
