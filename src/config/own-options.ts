import { option } from './option.ts';
import {
  boolean,
  fileMode,
  integer,
  listenAddress,
  oneOf,
  path,
  seconds,
  segmentSize,
  size,
  tags,
  text,
  timeout,
  url,
  workers,
} from './values.ts';

/** Options that Barman does not know. */
export const OWN_OPTIONS = {
  // Archiving
  archiver_workers: option(
    'global+server+model',
    workers,
    'auto',
    'Threads that verify, compress and write; `auto` is the number of CPUs, at most 4, and 0 does without threads.',
  ),
  archiver_poll_interval: option(
    'global+server',
    timeout,
    '10 s',
    'How often the daemon looks at incoming and streaming without having been woken.',
  ),
  incomplete_wal_timeout: option(
    'global+server+model',
    seconds,
    '5 min',
    'After this time a file that is still incomplete is reported; a history file, a backup label, and an old partial file in streaming, which no process will complete, go to errors.',
  ),
  verify_wal_header: option(
    'global+server+model',
    boolean,
    'on',
    'Verify the page headers of WAL that is taken; `off` for WAL whose headers can not be read (transparent data encryption): then its name and its size decide, and what came without a checksum also waits until it has been unchanged for incomplete_wal_timeout. `compression = custom` needs custom_compression_magic then.',
  ),
  wal_segment_size: option(
    'global+server+model',
    segmentSize,
    null,
    'The size of the segments, such as `16MB`, where verify_wal_header is off; unset, the server is asked, and its answer is remembered. While it is not known, no segment is taken.',
  ),
  wal_file_mode: option('global+server', fileMode, '0600', 'The permissions of archived WAL files.'),
  gap_severity: option(
    'global+server+model',
    oneOf('warning', 'critical', 'ok'),
    'warning',
    'What `check` makes of missing WAL that was not acknowledged by list-wals --acknowledge-gap: `warning` is exit status 1 of --nagios and none of check itself, `critical` a failure, `ok` only mentions it.',
  ),
  put_wal_conflict: option(
    'global+server+model',
    oneOf('reject', 'accept'),
    'reject',
    'What put-wal answers for another content under a known name: an error, or success as Barman does; both keep it in errors.',
  ),
  migrate_xlogdb: option(
    'global+server',
    boolean,
    'off',
    'Remove the old catalogue `xlog.db` once its lines are in the new one; only when no Barman before 3.13 uses this home.',
  ),
  hook_script_timeout: option(
    'global+server',
    seconds,
    null,
    'A hook script that takes longer is killed and counts as failed; no limit when unset.',
  ),
  gnupg_home: option('global+server', path, null, "The home directory of gpg; gpg's own default when unset."),

  // Streaming
  receive_wal_min_free: option(
    'global+server+model',
    size,
    null,
    'pg_receivewal pauses below this much free disk space; unset, 5 % of the disk or 1 GiB, whichever is smaller, but at least two segments and at most half of the disk.',
  ),
  receive_wal_stall_timeout: option(
    'global+server+model',
    seconds,
    '60 s',
    'pg_receivewal is started again when the server has been ahead for so long and nothing was received; 0 for never, and less than 2 s counts as 2 s.',
  ),

  // S3
  aws_endpoint_url: option('global+server+model', url, null, 'The address of an S3 service other than AWS.'),
  aws_force_path_style: option(
    'global+server+model',
    boolean,
    'off',
    'Put the bucket into the path of the address, as most services other than AWS want it.',
  ),
  aws_storage_class: option('global+server+model', text, null, 'The storage class of the objects.'),
  aws_tags: option('global+server+model', tags, null, 'Tags of the objects.'),
  aws_request_checksum: option(
    'global+server+model',
    oneOf('when_supported', 'when_required'),
    null,
    'When the SDK adds its own checksums; unset, when_required for an aws_endpoint_url and when_supported for AWS.',
  ),

  // Daemon
  shutdown_timeout: option('global', seconds, '30 s', 'How long the daemon takes to finish what it has in hand.'),
  http_listen: option(
    'global',
    listenAddress,
    'unix:%(barman_lock_directory)s/walwarden.sock',
    'Where the daemon serves HTTP; `off` for nowhere.',
  ),
  http_tls_cert_file: option('global', path, null, 'The TLS certificate of the HTTP server.'),
  http_tls_key_file: option('global', path, null, 'The private key of http_tls_cert_file.'),
  http_tokens_file: option(
    'global',
    path,
    null,
    'The file of the hashed bearer tokens; none, and TCP answers /livez only.',
  ),
  get_wal_prefetch: option(
    'global+server',
    integer(0, 64),
    '4',
    'WAL files that the daemon reads ahead for a client that reads in order.',
  ),
} as const;
