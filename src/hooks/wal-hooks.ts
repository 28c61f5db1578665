import type { Logger } from '../logging.ts';
import type { WalFileInfo } from '../wal/wal-file-info.ts';
import {
  runPlainHook,
  runRetryHook,
  type HookCall,
  type HookOperation,
  type HookOutcome,
  type HookScripts,
} from './hook-script.ts';

/** Runs the hook scripts around one operation on one file. */
export interface WalHooks {
  /** False when no script is configured for it, so that nobody has to wait for one between two files. */
  watches(operation: HookOperation): boolean;
  before(operation: HookOperation, wal: WalFileInfo, path: string): Promise<HookOutcome>;
  after(operation: HookOperation, wal: WalFileInfo, path: string, error?: string): Promise<HookOutcome>;
}

export interface WalHookSettings {
  readonly server: string;
  readonly configuration: string;
  readonly scripts: Readonly<Record<HookOperation, HookScripts>>;
  readonly timeoutMs: number | null;
  readonly pathPrefix: string | null;
  readonly logger: Logger;
  readonly drain?: AbortSignal | undefined;
  readonly kill?: AbortSignal | undefined;
}

/** The Barman release whose hook scripts ours are compatible with; scripts compare BARMAN_VERSION. */
const BARMAN_VERSION = '3.17.0';

/**
 * The configured hook scripts, in Barman's order: before an operation the
 * plain script and then the retry script, after it the other way round.
 */
export function createWalHooks(settings: WalHookSettings): WalHooks {
  const options = {
    logger: settings.logger,
    timeoutMs: settings.timeoutMs ?? undefined,
    pathPrefix: settings.pathPrefix ?? undefined,
    drain: settings.drain,
    kill: settings.kill,
  };
  const common = { version: BARMAN_VERSION, server: settings.server, configuration: settings.configuration };
  return {
    watches: (operation) => Object.values(settings.scripts[operation]).some((script) => script !== undefined),
    async before(operation, wal, path) {
      const scripts = settings.scripts[operation];
      const call: HookCall = { ...common, operation, phase: 'pre', wal, path };
      const plain = await runPlainHook(scripts.pre, call, options);
      return plain.outcome === 'stop' ? plain : runRetryHook(scripts.preRetry, call, options);
    },
    async after(operation, wal, path, error) {
      const scripts = settings.scripts[operation];
      const call: HookCall = { ...common, operation, phase: 'post', wal, path, error };
      const retried = await runRetryHook(scripts.postRetry, call, options);
      return retried.outcome === 'stop' ? retried : runPlainHook(scripts.post, call, options);
    },
  };
}
