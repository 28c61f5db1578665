import type { Command } from 'commander';
import type { CommandContext, Report } from '../commands/command.ts';

/** How a command is run, and what is special about it. */
export interface Execution {
  readonly run: (context: CommandContext) => Promise<Report>;
  /**
   * Whether it changes anything in barman_home, or makes something else do so. One that `writes` is refused to root
   * where the home is another user's; one that `reads` writes nothing there then, not even what it remembers or logs.
   */
  readonly home: 'reads' | 'writes';
  /** PostgreSQL runs this and keeps what it writes to stderr: there only what is wrong. */
  readonly calledByPostgres?: boolean;
  /** Cron mails whatever is written, every minute: there only what is wrong. */
  readonly calledByCron?: boolean;
  /** An error as a report on stdout, for those who read nothing else. */
  readonly report?: (error: unknown) => Promise<Report>;
  /** The exit status of an error, where it is not the usual one. */
  readonly exitStatus?: (error: unknown) => number;
}

/** Runs a command as its action is called. */
export type Execute = (command: Command, execution: Execution) => Promise<void>;

/** Adds a command with its help to the program. */
export type AddCommand = (spec: string, description: string) => Command;
