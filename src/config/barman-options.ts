import { COMPRESSION_NAMES } from '../compression/codec.ts';
import { option } from './option.ts';
import {
  bandwidth,
  boolean,
  bytes,
  command,
  compressionLevel,
  conninfo,
  homePath,
  integer,
  interval,
  location,
  logLevel,
  oneOf,
  parallel,
  path,
  pathList,
  seconds,
  slotName,
  text,
  timeout,
} from './values.ts';

/** Barman's options that mean something to us, with Barman's names, scopes and defaults. */
export const BARMAN_OPTIONS = {
  // Where things are
  barman_home: option('global', path, '/var/lib/barman', 'The directory that holds everything of every server.'),
  barman_lock_directory: option(
    'global',
    path,
    '%(barman_home)s',
    'The directory of the lock files; a local file system, shared with a Barman on the same home.',
  ),
  configuration_files_directory: option(
    'global',
    homePath,
    null,
    'A directory whose `*.conf` files are read after the main file, in the order of their names; `~/` is the home directory.',
  ),
  log_file: option('global', path, null, 'Where the log goes; stderr when unset.'),
  log_level: option('global', logLevel, 'INFO', 'The least important messages that are logged.'),
  backup_directory: option(
    'server',
    path,
    '%(barman_home)s/%(name)s',
    'The directory that holds everything of one server.',
  ),
  incoming_wals_directory: option(
    'server',
    path,
    '%(backup_directory)s/incoming',
    "Where archive_command delivers WAL files; PostgreSQL's side of the archive.",
  ),
  streaming_wals_directory: option(
    'server',
    path,
    '%(backup_directory)s/streaming',
    'Where pg_receivewal writes; always keeps one file, which marks its position.',
  ),
  wals_directory: option(
    'server',
    location,
    '%(backup_directory)s/wals',
    'The archive: a directory, or a bucket with a prefix.',
  ),
  xlogdb_directory: option(
    'global+server',
    path,
    null,
    'The directory of the catalogue, `NAME-xlog.db`; unset, it is wals_directory, or `wals` in backup_directory when the archive is a bucket.',
  ),
  errors_directory: option(
    'server',
    path,
    '%(backup_directory)s/errors',
    'Where files go that can not be archived, with the reason.',
  ),
  basebackups_directory: option(
    'server',
    text,
    '%(backup_directory)s/base',
    "Where Barman's backups are; delete-wals leaves the WAL that they need. In a bucket, they are those of which Barman has a backup.info in `meta` in backup_directory.",
  ),

  // The server
  active: option('server+model', boolean, 'true', 'When off, nothing is archived or streamed; reading goes on.'),
  description: option('server+model', text, null, 'What this server is, for people.'),
  cluster: option('server+model', text, '%(name)s', 'The cluster that a server belongs to, or a model is made for.'),
  model: option(
    'model',
    boolean,
    null,
    'Makes a section a model: values for the servers of its cluster, in effect once a server has it as active model.',
  ),
  conninfo: option('server+model', conninfo, null, 'How to connect to PostgreSQL for status and checks.'),
  streaming_conninfo: option(
    'server+model',
    conninfo,
    null,
    'How pg_receivewal connects to PostgreSQL; conninfo when unset.',
  ),
  wal_conninfo: option(
    'server+model',
    conninfo,
    null,
    'How to ask for the state of the replication slot; wal_streaming_conninfo when unset and that is set, else conninfo.',
  ),
  wal_streaming_conninfo: option(
    'server+model',
    conninfo,
    null,
    'How to receive WAL when it does not come from the server of streaming_conninfo; streaming_conninfo when unset.',
  ),
  path_prefix: option(
    'global+server+model',
    pathList,
    null,
    'Directories that are searched for programs before those of PATH.',
  ),
  primary_ssh_command: option(
    'global+server+model',
    command,
    null,
    'How to reach the Barman of the primary node; makes this server passive: listed and checked, never archived.',
  ),
  check_timeout: option(
    'global+server+model',
    seconds,
    '30',
    'How long the checks of one server may take; 0 for no limit.',
  ),

  // Archiving
  archiver: option(
    'global+server+model',
    boolean,
    'off',
    'Take the WAL files that archive_command delivers to incoming.',
  ),
  archiver_batch_size: option(
    'global+server+model',
    integer(0),
    '0',
    'At most so many files of incoming are archived in one pass; 0 for all.',
  ),
  streaming_archiver: option(
    'global+server+model',
    boolean,
    'off',
    'Receive WAL over streaming replication, and archive it from there.',
  ),
  streaming_archiver_batch_size: option(
    'global+server+model',
    integer(0),
    '0',
    'At most so many files of streaming are archived in one pass; 0 for all.',
  ),
  streaming_archiver_name: option(
    'global+server+model',
    text,
    'barman_receive_wal',
    'The application_name of pg_receivewal, which synchronous_standby_names may list.',
  ),
  slot_name: option('global+server+model', slotName, null, 'The replication slot of pg_receivewal.'),
  create_slot: option(
    'global+server+model',
    oneOf('manual', 'auto'),
    'manual',
    'Whether a missing replication slot is created before streaming.',
  ),
  last_wal_maximum_age: option(
    'global+server+model',
    interval,
    null,
    '`check` fails when the last archived WAL file is older.',
  ),
  max_incoming_wals_queue: option(
    'global+server+model',
    integer(0),
    null,
    '`check` fails when more files than this wait in incoming and streaming.',
  ),

  // Compression and encryption
  compression: option(
    'global+server+model',
    oneOf(...COMPRESSION_NAMES),
    null,
    'How WAL files are compressed in the archive; not at all when unset or `none`.',
  ),
  compression_level: option(
    'global+server+model',
    compressionLevel,
    'medium',
    "How hard to compress; a number is clipped to the algorithm's range.",
  ),
  custom_compression_filter: option(
    'global+server+model',
    command,
    null,
    'The filter of `compression = custom`: plain bytes on stdin, compressed ones on stdout.',
  ),
  custom_decompression_filter: option(
    'global+server+model',
    command,
    null,
    'The filter that undoes custom_compression_filter.',
  ),
  custom_compression_magic: option(
    'global+server+model',
    bytes,
    null,
    'The first bytes of what custom_compression_filter writes, by which such files are recognised.',
  ),
  encryption: option(
    'global+server+model',
    oneOf('gpg'),
    null,
    'How archived WAL files are encrypted; not at all when unset.',
  ),
  encryption_key_id: option('global+server+model', text, null, 'The recipient that gpg encrypts for.'),
  encryption_passphrase_command: option(
    'global+server+model',
    command,
    null,
    'A command whose output is the passphrase of the secret key; needed for reading only.',
  ),

  // Hook scripts
  pre_archive_script: option('global+server', command, null, 'Runs once before a WAL file is archived.'),
  pre_archive_retry_script: option(
    'global+server',
    command,
    null,
    'Runs before a WAL file is archived until it exits 0, 62 (go on) or 63 (end the pass).',
  ),
  post_archive_retry_script: option(
    'global+server',
    command,
    null,
    'Runs after a WAL file was archived until it exits 0, 62 or 63.',
  ),
  post_archive_script: option('global+server', command, null, 'Runs once after a WAL file was archived.'),
  pre_wal_delete_script: option('global+server', command, null, 'Runs once before a WAL file is deleted.'),
  pre_wal_delete_retry_script: option(
    'global+server',
    command,
    null,
    'Runs before a WAL file is deleted until it exits 0, 62 (go on) or 63 (stop deleting).',
  ),
  post_wal_delete_retry_script: option(
    'global+server',
    command,
    null,
    'Runs after a WAL file was deleted until it exits 0, 62 or 63.',
  ),
  post_wal_delete_script: option('global+server', command, null, 'Runs once after a WAL file was deleted.'),

  // S3
  aws_profile: option('global+server+model', text, null, 'The profile of the AWS configuration files.'),
  aws_region: option('global+server+model', text, null, 'The AWS region of the bucket.'),
  aws_encryption: option(
    'global+server+model',
    oneOf('AES256', 'aws:kms'),
    null,
    'Server-side encryption of the objects.',
  ),
  aws_sse_kms_key_id: option('global+server+model', text, null, 'The key of `aws_encryption = aws:kms`.'),
  aws_read_timeout: option(
    'global+server+model',
    timeout,
    '60',
    'How long a request to S3 may go without an answer; get-wal and put-wal, which PostgreSQL waits for, wait at most 10 s, three times.',
  ),
  cloud_wal_archive_parallel: option('global+server+model', parallel, '4', 'Uploads of WAL files at a time.'),
  cloud_wal_restore_parallel: option(
    'global+server+model',
    parallel,
    '4',
    'Downloads of WAL files at a time when reading ahead.',
  ),
  cloud_delete_batch_size: option('global+server+model', integer(1, 1000), '1000', 'Objects deleted with one request.'),
  bandwidth_limit: option(
    'global+server+model',
    bandwidth,
    '0',
    'Upload rate to S3 in kilobytes per second; 0 for no limit.',
  ),
} as const;
