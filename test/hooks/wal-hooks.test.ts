import { join } from 'node:path';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { isThere } from '../../src/durable/durable-file.ts';
import { createWalHooks } from '../../src/hooks/wal-hooks.ts';
import { walName } from '../../src/wal/wal-name.ts';
import { until } from '../support/poll.ts';
import { withTempDir } from '../support/temp-dir.ts';

const wal = { name: walName('000000010000000000000007'), size: 1, mtime: 1, compression: null, encryption: null };

test.each(['before', 'after'] as const)('a script that runs %s an operation ends when we are killed', (when) =>
  withTempDir(async (directory) => {
    const kill = new AbortController();
    const script = `touch ${directory}/up; exec sleep 60`;
    const hooks = createWalHooks({
      server: 'main',
      configuration: '/etc/barman.conf',
      scripts: { archive: { preRetry: script, postRetry: script }, wal_delete: {} },
      timeoutMs: null,
      pathPrefix: null,
      logger: pino({ level: 'silent' }),
      kill: kill.signal,
    });
    const running = hooks[when]('archive', wal, '/archive/000000010000000000000007');
    await until('the script to run', () => isThere(join(directory, 'up')));
    kill.abort();
    expect(await running).toMatchObject({ outcome: 'stop', error: { code: 'aborted' } });
  }),
);
