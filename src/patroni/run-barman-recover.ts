import type { ExitCode } from './exit-code.ts';
import type { PgBackupApi } from './pg-backup-api.ts';
import { restoreBackup } from './restore-backup.ts';

/** What of the command line says which restore is wanted. */
export interface BarmanRecoverArguments {
  readonly barmanServer: string;
  readonly backupId: string;
  readonly sshCommand: string;
  readonly dataDirectory: string;
  /** Seconds between looks at the operation. */
  readonly loopWait: number;
}

/** `recover`, with an API that has said that it is OK (patroni_barman's `run_barman_recover`). */
export async function runBarmanRecover(api: PgBackupApi, args: BarmanRecoverArguments): Promise<ExitCode> {
  return restoreBackup(api, args.barmanServer, args.backupId, args.sshCommand, args.dataDirectory, args.loopWait);
}
