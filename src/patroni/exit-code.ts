/** How `recover` ends, by the names of patroni_barman. */
export const ExitCode = {
  /** The backup is restored. */
  RECOVERY_DONE: 0,
  /** pg-backup-api says that the restore failed. */
  RECOVERY_FAILED: 1,
  /** pg-backup-api can't be talked to; so too for a mistake on the command line. */
  HTTP_ERROR: 2,
} as const;

export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** patroni_barman's -2: pg-backup-api does not say that it is OK, so nothing was begun. */
export const EXIT_API_NOT_OK = 254;

/** patroni_barman's -1: no subcommand was given. */
export const EXIT_NO_SUBCOMMAND = 255;
