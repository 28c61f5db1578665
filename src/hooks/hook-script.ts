import { setTimeout as delay } from 'node:timers/promises';
import { WalwardenError } from '../errors.ts';
import type { Logger } from '../logging.ts';
import { formatSeconds, type WalFileInfo } from '../wal/wal-file-info.ts';
import { runScript, type ScriptEnd } from './script-process.ts';

/** The hook scripts around one operation: shell command lines, as configured (`pre_archive_script` and so on). */
export interface HookScripts {
  readonly pre?: string | undefined;
  readonly preRetry?: string | undefined;
  readonly postRetry?: string | undefined;
  readonly post?: string | undefined;
}

export type HookPhase = 'pre' | 'post';
export type HookOperation = 'archive' | 'wal_delete';

/** What a script is told in its environment (Barman: hooks.py, env_from_wal_info). */
export interface HookCall {
  readonly operation: HookOperation;
  readonly phase: HookPhase;
  /** BARMAN_VERSION: the Barman release whose behaviour we follow; scripts compare it. */
  readonly version: string;
  readonly server: string;
  /** Path of the main configuration file. */
  readonly configuration: string;
  /** pre: the file as it arrived; post: as it is stored. */
  readonly wal: WalFileInfo;
  /** pre archive: the source; otherwise the file in the archive. */
  readonly path: string;
  /** Why the operation failed; absent or empty when it didn't. */
  readonly error?: string | undefined;
}

export interface HookOptions {
  readonly logger: Logger;
  /** `hook_script_timeout` for each try, in milliseconds; none when absent. */
  readonly timeoutMs?: number | undefined;
  /** `path_prefix`: directories put before PATH. */
  readonly pathPrefix?: string | undefined;
  /** Starts no new try; a script that runs may finish. What is done is told once all the same: to the post scripts. */
  readonly drain?: AbortSignal | undefined;
  /** Ends the wait and the script, now. */
  readonly kill?: AbortSignal | undefined;
  readonly delays?: HookDelays | undefined;
}

/** In milliseconds. */
export interface HookDelays {
  /** Between tries. */
  readonly short: number;
  /** After every sixth failure. */
  readonly long: number;
  /** Between SIGTERM and SIGKILL. */
  readonly killGrace: number;
}

/** Whether the operation goes on. `stop` carries the error to end the pass with: code `hook`, or `aborted` after drain or kill. */
export type HookOutcome =
  | { readonly outcome: 'continue'; readonly reason: string }
  | { readonly outcome: 'stop'; readonly reason: string; readonly error: WalwardenError };

const DEFAULT_DELAYS: HookDelays = { short: 3_000, long: 60_000, killGrace: 5_000 };

const ABORT_CONTINUE = 62;
const ABORT_STOP = 63;
const NOT_EXECUTABLE = 126;
const NOT_FOUND = 127;

/** What the end of one try of a retry script means. */
export type RetryDecision = 'done' | 'continue' | 'stop' | 'ignored-stop' | 'unusable' | 'aborted' | 'retry';

/**
 * The policy of retry scripts (Barman: RetryHookScriptRunner). The exception
 * is ours: a script that the shell can't run will not get better by being
 * run again, and going on without it is not what the user demanded.
 */
export function decideRetry(end: ScriptEnd, phase: HookPhase): RetryDecision {
  if (end.how === 'aborted') return 'aborted';
  if (end.how !== 'exited') return 'retry';
  switch (end.status) {
    case 0:
      return 'done';
    case ABORT_CONTINUE:
      return 'continue';
    case ABORT_STOP:
      return phase === 'pre' ? 'stop' : 'ignored-stop';
    case NOT_EXECUTABLE:
    case NOT_FOUND:
      return 'unusable';
    default:
      return 'retry';
  }
}

/** Milliseconds to wait after the n-th failure, counted from 1. */
export function retryDelay(failures: number, delays: HookDelays = DEFAULT_DELAYS): number {
  return failures % 6 === 0 ? delays.long : delays.short;
}

/** The environment of a script: ours and the BARMAN_* variables, all of them always set. */
export function hookEnvironment(
  call: HookCall,
  retry: boolean,
  base: NodeJS.ProcessEnv = process.env,
  pathPrefix?: string,
): NodeJS.ProcessEnv {
  const { wal } = call;
  const barman = {
    BARMAN_VERSION: call.version,
    BARMAN_SERVER: call.server,
    BARMAN_CONFIGURATION: call.configuration,
    BARMAN_HOOK: hookName(call.operation, retry),
    BARMAN_RETRY: retry ? '1' : '0',
    BARMAN_PHASE: call.phase,
    // NUL ends a string of the environment; an error message may quote one.
    BARMAN_ERROR: (call.error ?? '').replaceAll('\0', '?'),
    BARMAN_SEGMENT: wal.name,
    BARMAN_FILE: call.path,
    BARMAN_SIZE: String(wal.size),
    BARMAN_TIMESTAMP: formatSeconds(wal.mtime),
    BARMAN_COMPRESSION: wal.compression ?? '',
    BARMAN_ENCRYPTION: wal.encryption ?? '',
  };
  const path = pathPrefix ? { PATH: `${pathPrefix}:${base['PATH'] ?? ''}` } : {};
  return { ...base, ...path, ...barman };
}

/**
 * Runs a plain script once. Whatever becomes of it is told in the log and the
 * operation goes on; only an abort stops. Without a script there is nothing to do.
 */
export async function runPlainHook(
  script: string | undefined,
  call: HookCall,
  options: HookOptions,
): Promise<HookOutcome> {
  if (!script) return { outcome: 'continue', reason: 'no script' };
  const label = `${call.phase}_${hookName(call.operation, false)}`;
  const end = await runOnce(script, call, false, options);
  if (end.how === 'aborted') return aborted(label, call);
  const reason = describe(end);
  if (end.how === 'exited' && end.status === 0) {
    options.logger.debug({ hook: label, wal: call.wal.name }, `${label} ${reason}`);
  } else {
    options.logger.warn({ hook: label, wal: call.wal.name, script }, `${label} ${reason}: ${script}`);
  }
  return { outcome: 'continue', reason };
}

/**
 * Runs a retry script until it ends with 0, 62 (go on) or 63 (stop; in a post
 * script told and ignored), with 3 s between tries and 60 s after every sixth
 * failure. A script that the shell can't run stops at once, in either phase.
 */
export async function runRetryHook(
  script: string | undefined,
  call: HookCall,
  options: HookOptions,
): Promise<HookOutcome> {
  if (!script) return { outcome: 'continue', reason: 'no script' };
  const label = `${call.phase}_${hookName(call.operation, true)}`;
  const { logger } = options;
  const facts = { hook: label, wal: call.wal.name, script };
  for (let failures = 0; ;) {
    if (options.drain?.aborted && (call.phase === 'pre' || failures > 0)) return aborted(label, call);
    const end = await runOnce(script, call, true, options);
    const reason = describe(end);
    const decision = decideRetry(end, call.phase);
    switch (decision) {
      case 'done':
        if (failures > 0) logger.info(facts, `${label} succeeded after ${failures} failures`);
        return { outcome: 'continue', reason };
      case 'continue':
        logger.warn(facts, `${label} aborted with exit status ${ABORT_CONTINUE}; going on with ${call.wal.name}`);
        return { outcome: 'continue', reason };
      case 'ignored-stop':
        logger.warn(facts, `${label} asked to stop with exit status ${ABORT_STOP}; ignored after the fact`);
        return { outcome: 'continue', reason };
      case 'stop':
        return stop(label, script, call, reason, 'it asks to stop; repair what it complains about, the file waits');
      case 'unusable':
        return stop(label, script, call, reason, `correct ${label} in ${call.configuration}, or the script itself`);
      case 'aborted':
        return aborted(label, call);
      case 'retry':
        failures += 1;
        await waitForRetry(label, facts, failures, reason, options);
    }
  }
}

/** Waits for the next try; drain and kill cut the wait short. */
async function waitForRetry(
  label: string,
  facts: object,
  failures: number,
  reason: string,
  options: HookOptions,
): Promise<void> {
  if (options.drain?.aborted) {
    options.logger.warn({ ...facts, failures }, `${label} ${reason} (failure ${failures}); not tried again now`);
    return;
  }
  const waitMs = retryDelay(failures, options.delays);
  // A line when it begins to fail and one for every long wait, not one every three seconds for ever.
  const level = failures === 1 || failures % 6 === 0 ? 'warn' : 'debug';
  options.logger[level](
    { ...facts, failures },
    `${label} ${reason} (failure ${failures}); next try in ${waitMs / 1000} s`,
  );
  const signals = [options.drain, options.kill].filter((signal) => signal !== undefined);
  try {
    await delay(waitMs, undefined, { signal: AbortSignal.any(signals) });
  } catch (error) {
    if (!signals.some((signal) => signal.aborted)) throw error;
  }
}

function runOnce(script: string, call: HookCall, retry: boolean, options: HookOptions): Promise<ScriptEnd> {
  const hook = `${call.phase}_${hookName(call.operation, retry)}`;
  return runScript({
    script,
    env: hookEnvironment(call, retry, process.env, options.pathPrefix),
    onLine: (line, stream) => options.logger.info({ hook, wal: call.wal.name, stream }, line),
    timeoutMs: options.timeoutMs,
    kill: options.kill,
    killGraceMs: (options.delays ?? DEFAULT_DELAYS).killGrace,
  });
}

function hookName(operation: HookOperation, retry: boolean): string {
  return retry ? `${operation}_retry_script` : `${operation}_script`;
}

function describe(end: ScriptEnd): string {
  if (end.how === 'signalled') return `was killed by ${end.signal}`;
  if (end.how === 'timed-out') return `took longer than hook_script_timeout (${end.afterMs / 1000} s) and was killed`;
  if (end.how === 'aborted') return 'was ended, because walwarden was asked to stop';
  if (end.how === 'not-started') return `could not be started: ${end.why}`;
  if (end.status === NOT_EXECUTABLE) return `can't be executed (exit status ${NOT_EXECUTABLE} of the shell)`;
  if (end.status === NOT_FOUND) return `or a command in it was not found (exit status ${NOT_FOUND} of the shell)`;
  return end.status === 0 ? 'succeeded' : `failed with exit status ${end.status}`;
}

function stop(label: string, script: string, call: HookCall, reason: string, hint: string): HookOutcome {
  const error = new WalwardenError('hook', `${label} of ${call.server} ${reason}, for ${call.wal.name}: ${script}`, {
    hint,
  });
  return { outcome: 'stop', reason, error };
}

function aborted(label: string, call: HookCall): HookOutcome {
  const reason = 'walwarden was asked to stop';
  return {
    outcome: 'stop',
    reason,
    error: new WalwardenError('aborted', `${label} of ${call.server} for ${call.wal.name}: ${reason}`),
  };
}
