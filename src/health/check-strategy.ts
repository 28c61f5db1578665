/** One line of `check`. */
export interface CheckResult {
  /** As Barman calls it: people's monitoring looks for these names. */
  readonly check: string;
  readonly ok: boolean;
  /** The cause, and what to do about it; also for what is fine, where there is something to say. */
  readonly hint: string | null;
  /** Bytes, where the check measures something: performance data for monitoring systems. */
  readonly bytes?: number;
  /** It did not fail, and somebody should look at it. */
  readonly severity?: 'warning';
  /** What was checked, for who is told that all is well. */
  readonly praise?: string;
}

/**
 * Collects the results of one server's checks; every output is made from this
 * list. Each check is announced before it is tried, so that a timeout can say
 * which one did not answer.
 */
export class CheckStrategy {
  readonly results: CheckResult[] = [];
  #current: string | null = null;
  #closed = false;

  /** The check that is being tried. */
  get current(): string | null {
    return this.#current;
  }

  /** Announces a check. */
  initCheck(check: string): void {
    this.#current = check;
  }

  /** The result of the announced check, or of another one that needed no trying. */
  result(ok: boolean, hint: string | null = null, check: string | null = this.#current): void {
    if (check === null) throw new Error('a result without a check');
    // What answers after the timeout has been told already.
    if (!this.#closed) this.results.push({ check, ok, hint });
  }

  /** Results that were found elsewhere, in their order. */
  record(results: readonly CheckResult[]): void {
    if (!this.#closed) this.results.push(...results);
  }

  /** No result counts any more: the time is up. */
  close(): void {
    this.#closed = true;
  }

  get hasErrors(): boolean {
    return this.results.some(({ ok }) => !ok);
  }
}
