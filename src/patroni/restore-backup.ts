import { isErrorCode } from '../errors.ts';
import { ExitCode } from './exit-code.ts';
import { Interruption, wait } from './interruption.ts';
import type { PgBackupApi } from './pg-backup-api.ts';

/** A restore takes hours: a line for its state this often, in milliseconds, and the polls between as debug. */
const TELL_MS = 300_000;

/**
 * Has a Barman backup restored through pg-backup-api, and waits for the end
 * (patroni_barman's `_restore_backup`). Throws an {@link Interruption} when
 * stopped; the restore goes on at the Barman host then.
 *
 * @param loopWait seconds between looks at the operation
 */
export async function restoreBackup(
  api: PgBackupApi,
  barmanServer: string,
  backupId: string,
  sshCommand: string,
  dataDirectory: string,
  loopWait: number,
): Promise<ExitCode> {
  const { logger } = api;
  logger.info(
    `restoring backup ${backupId} of ${barmanServer} into ${dataDirectory} through ${api.operationUrl(barmanServer)}`,
  );
  let operationId: string;
  try {
    operationId = await api.createRecoveryOperation(barmanServer, backupId, sshCommand, dataDirectory);
  } catch (error) {
    if (error instanceof Interruption) {
      logger.error(
        api.maybeBegun
          ? `${error.message} while a restore was asked for: it may have been begun; see ${api.operationUrl(barmanServer)}`
          : `${error.message} before a restore was begun`,
      );
    }
    return failure(api, '', error);
  }
  const operation = { operation_id: operationId };
  logger.info(operation, `created the recovery operation ${operationId}`);
  try {
    return await follow(api, barmanServer, operationId, loopWait);
  } catch (error) {
    const goesOn = `recovery operation ${operationId} goes on at the Barman host; see ${api.operationUrl(barmanServer, operationId)}`;
    if (error instanceof Interruption) logger.error(operation, `${error.message}: ${goesOn}`);
    return failure(api, `; the outcome is not known, and ${goesOn}`, error);
  }
}

async function follow(
  api: PgBackupApi,
  barmanServer: string,
  operationId: string,
  loopWait: number,
): Promise<ExitCode> {
  const { logger } = api;
  const operation = { operation_id: operationId };
  let toldAt = -Infinity;
  for (;;) {
    const status = await api.getOperationStatus(barmanServer, operationId);
    if (status === 'DONE') {
      logger.info(operation, `recovery operation ${operationId} is done`);
      return ExitCode.RECOVERY_DONE;
    }
    if (status === 'FAILED') {
      logger.error(
        {
          ...operation,
          hint: `the output of barman recover is in <barman_home>/${barmanServer}/output/${operationId}.json on the Barman host`,
        },
        `recovery operation ${operationId} failed (${api.operationUrl(barmanServer, operationId)})`,
      );
      return ExitCode.RECOVERY_FAILED;
    }
    const now = performance.now();
    const tell = now - toldAt >= TELL_MS;
    if (tell) toldAt = now;
    logger[tell ? 'info' : 'debug'](operation, `recovery operation ${operationId} is still in progress`);
    await wait(loopWait, api.stop);
  }
}

function failure({ logger }: PgBackupApi, addition: string, error: unknown): ExitCode {
  if (!isErrorCode(error, 'pg-backup-api')) throw error;
  const { code, hint } = error;
  logger.error({ code, ...(hint === undefined ? {} : { hint }) }, `${error.message}${addition}`);
  return ExitCode.HTTP_ERROR;
}
