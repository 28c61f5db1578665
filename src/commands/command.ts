import type { WalwardenConfig } from '../config/config.ts';
import type { WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';

export { count, formatBytes } from '../words.ts';

/** What a command is given beside its own arguments. */
export interface CommandContext {
  readonly config: WalwardenConfig;
  readonly logger: Logger;
  /** Not to stderr. */
  readonly logsToFile: boolean;
  /** The level that was asked for on the command line; null when the configuration says. */
  readonly logLevel: string | null;
  /** Started in the background, by cron: nobody waits for the end. */
  readonly detached: boolean;
  /** Prints text at once, for who waits at a terminal; nothing where JSON or quiet is wanted. */
  readonly say: (text: string) => void;
  /** Aborted by the first SIGTERM or SIGINT: finish what is in hand. */
  readonly drain: AbortSignal;
  /** Aborted by the second: stop now, and leave no hook script behind. */
  readonly kill: AbortSignal;
}

/** What a command has to say; printed as text or as JSON. */
export interface Report {
  readonly text: string;
  readonly json: unknown;
  /** What went wrong with some servers while others went well: for stderr, as an error that is thrown. JSON has it in itself. */
  readonly errors?: readonly WalwardenError[];
  /** 0 when absent. */
  readonly exitCode?: number;
  /** Something still runs that nobody waits for: it must not keep the process. */
  readonly abandons?: boolean;
}
