import { isAbsolute } from 'node:path';
import { isErrorCode, WalwardenError } from '../errors.ts';
import { createLogger, type Logger } from '../logging.ts';
import { parseApiUrl } from './api-url.ts';
import { lookalike, type Words } from './arguments.ts';
import { EXIT_API_NOT_OK } from './exit-code.ts';
import { Interruption, untilStopped } from './interruption.ts';
import { checkOptions } from './options.ts';
import { PgBackupApi } from './pg-backup-api.ts';
import { runBarmanRecover } from './run-barman-recover.ts';
import { loadTlsMaterial } from './tls-material.ts';

/**
 * The command of both executables: from its words to its exit status. Throws
 * `usage` for what is wrong with the words; everything else is in the log.
 */
export async function recover(words: Words): Promise<number> {
  const args = checkOptions(words.given);
  const url = parseApiUrl(args.apiUrl);
  const tls = await loadTlsMaterial(args);
  const logger = createRecoverLogger(args.logFile, args.logLevel ?? (words.debug ? 'DEBUG' : 'INFO'));
  tellIgnored(words.ignored, logger);
  if (url.origin.protocol === 'http:' && Object.keys(tls).length > 0) {
    logger.warn('--cert-file, --key-file and --ca-file are for https://, and --api-url begins with http://');
  }
  if (!isAbsolute(args.dataDirectory)) {
    logger.warn(
      `the data directory ${args.dataDirectory} is relative: the restore goes below the home of the user that --ssh-command logs in as`,
    );
  }
  return untilStopped(async (stop) => {
    const { retryWait, maxRetries, requestTimeout } = args;
    const api = new PgBackupApi({ url, tls, retryWait, maxRetries, requestTimeout, logger, stop });
    try {
      try {
        await api.ensureApiOk();
      } catch (error) {
        if (error instanceof Interruption) logger.error(`${error.message} before a restore was asked for`);
        if (!isErrorCode(error, 'pg-backup-api')) throw error;
        logError(logger, error, `pg-backup-api is not OK, so no restore was asked for: ${error.message}`);
        return EXIT_API_NOT_OK;
      }
      return await runBarmanRecover(api, args);
    } catch (error) {
      if (error instanceof Interruption) return error.exitStatus;
      throw error;
    }
  });
}

/** With a file, errors go to stderr as well: that is where whoever looks after Patroni looks first. */
function createRecoverLogger(file: string | null, level: string): Logger {
  const logger = createLogger({ file, level });
  if (file === null) return logger;
  const stderr = createLogger({ file: null, level });
  const error = (facts: object | string, message?: string): void => {
    for (const each of [logger, stderr]) {
      if (typeof facts === 'string') each.error(facts);
      else each.error(facts, message ?? '');
    }
  };
  return { ...logger, error };
}

function tellIgnored(ignored: readonly string[], logger: Logger): void {
  for (const name of ignored) {
    const meant = lookalike(name);
    if (meant === null) logger.debug(`ignored the option ${name}, which is Patroni’s own or nobody’s`);
    else logger.warn(`ignored the option ${name}: did you mean ${meant}?`);
  }
}

function logError(logger: Logger, { code, hint }: WalwardenError, message: string): void {
  logger.error({ code, ...(hint === undefined ? {} : { hint }) }, message);
}
