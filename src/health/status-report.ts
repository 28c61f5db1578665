/** A value as JSON has it; bigints (LSNs, identifiers) are given as text. */
export type StatusValue =
  string | number | boolean | null | readonly StatusValue[] | { readonly [key: string]: StatusValue };

/** One line of `status`. */
export interface StatusEntry {
  /** The stable name, for JSON. */
  readonly name: string;
  /** What people read. */
  readonly label: string;
  readonly value: StatusValue;
  /** The value for people. */
  readonly text: string;
}

/** Collects what `status` says of one server; every output is made from this list. */
export class StatusReport {
  readonly entries: StatusEntry[] = [];

  add(name: string, label: string, value: StatusValue, text: string): void {
    this.entries.push({ name, label, value, text });
  }
}
