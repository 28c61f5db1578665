import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { findServer, type ServerConfig } from '../../src/config/config.ts';
import { loadConfig } from '../../src/config/load.ts';
import { withConfig } from './with-config.ts';

const PYTHON = '/usr/bin/python3';
const hasBarman = existsSync('/usr/lib/python3/dist-packages/barman/config.py');

const FILES = {
  'barman.conf': `; Barman, Backup and Recovery Manager for PostgreSQL
[barman]
barman_user = barman
configuration_files_directory = HOME/barman.d
barman_home = HOME/data
barman_lock_directory = HOME/run
log_file = HOME/barman.log
log_level = INFO
compression = gzip
pre_archive_script = env | grep ^BARMAN
post_archive_retry_script = "/usr/bin/after 50%%"
bandwidth_limit = 4000
parallel_jobs = 1
immediate_checkpoint = false
network_compression = false
basebackup_retry_times = 0
check_timeout = 30
last_backup_maximum_age = 4 WEEKS
minimum_redundancy = 1
retention_policy = RECOVERY WINDOW OF 4 WEEKS
recovery_options = 'get-wal'
streaming_archiver_name = receiver
max_incoming_wals_queue = 10
`,
  'barman.d/streaming.conf': `[streaming]
description =  "Example of PostgreSQL Database (Streaming-Only)"
conninfo = host=pg user=barman dbname=postgres
streaming_conninfo = host=pg user=streaming_barman
backup_method = postgres
streaming_archiver = on
slot_name = Barman
create_slot = AUTO
path_prefix = "/usr/pgsql-15/bin:/opt/bin"
compression = none
last_wal_maximum_age = 2 months
streaming_archiver_batch_size = 50
`,
  'barman.d/ssh.conf': `[ssh]
description: 'Example of PostgreSQL Database (via SSH)'
ssh_command = ssh postgres@pg
conninfo = host=pg
    user=barman
    dbname=postgres
reuse_backup = link
archiver = T
archiver_batch_size = 7
backup_directory = HOME/elsewhere/ssh
incoming_wals_directory = %(backup_directory)s/arriving
errors_directory = "%(incoming_wals_directory)s/100%%"
pre_archive_script = None
custom_compression_filter = bzip2 -c -9
custom_decompression_filter = bzip2 -c -d
custom_compression_magic = 0x425a68
active = no
[passive]
primary_ssh_command = ssh barman@one
`,
} as const;

/** Every option that Barman 3.4 and we both act on. */
const COMMON = [
  'active',
  'archiver',
  'archiver_batch_size',
  'backup_directory',
  'bandwidth_limit',
  'check_timeout',
  'compression',
  'conninfo',
  'create_slot',
  'custom_compression_filter',
  'custom_compression_magic',
  'custom_decompression_filter',
  'description',
  'errors_directory',
  'incoming_wals_directory',
  'last_wal_maximum_age',
  'max_incoming_wals_queue',
  'path_prefix',
  'post_archive_retry_script',
  'post_archive_script',
  'pre_archive_script',
  'pre_wal_delete_script',
  'primary_ssh_command',
  'slot_name',
  'streaming_archiver',
  'streaming_archiver_batch_size',
  'streaming_archiver_name',
  'streaming_conninfo',
  'streaming_wals_directory',
  'wals_directory',
] as const satisfies readonly (keyof ServerConfig['options'])[];

const SCRIPT = `
import json, sys
from barman.config import Config
config = Config(sys.argv[1])
config.load_configuration_files_directory()
plain = lambda value: value.total_seconds() if hasattr(value, 'total_seconds') else value
json.dump({'home': config.barman_home, 'locks': config.barman_lock_directory, 'log': config.log_file,
  'servers': {s.name: {k: plain(getattr(s, k)) for k in json.loads(sys.argv[2])} for s in config.servers()}}, sys.stdout)
`;

describe.skipIf(!hasBarman)("Barman's own reading of a realistic configuration", () => {
  it('is the same as ours, option by option', async () => {
    await withConfig(FILES, async (_home, main) => {
      const barman = spawnSync(PYTHON, ['-c', SCRIPT, main, JSON.stringify(COMMON)], { encoding: 'utf8' });
      expect(barman.stderr).toBe('');
      const theirs: unknown = JSON.parse(barman.stdout);
      const config = await loadConfig(main);
      expect(config.warnings.map(({ message }) => message)).toEqual([]);
      const servers = [...config.servers.keys()].map((name) => [name, asBarmanSays(findServer(config, name))]);
      const { barman_home: home, barman_lock_directory: locks, log_file: log } = config.global.options;
      expect({ home, locks, log, servers: Object.fromEntries(servers) }).toEqual(theirs);
    });
  });
});

/** Our values in Barman's units and types. */
function asBarmanSays({ options, settings }: ServerConfig): Readonly<Record<string, unknown>> {
  const values = Object.fromEntries(COMMON.map((name) => [name, options[name]]));
  return {
    ...values,
    // Barman keeps line breaks, and these as text.
    conninfo: settings.conninfo.text,
    streaming_conninfo: settings.streaming_conninfo.text,
    bandwidth_limit: settings.bandwidth_limit.text,
    custom_compression_magic: settings.custom_compression_magic.text,
    path_prefix: options.path_prefix?.join(':') ?? null,
    check_timeout: options.check_timeout / 1000,
    last_wal_maximum_age: options.last_wal_maximum_age === null ? null : options.last_wal_maximum_age / 1000,
  };
}
