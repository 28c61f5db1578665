import { expect, test } from 'vitest';
import type { PostgresSettings } from '../../src/postgres/remote-status.ts';
import { receivewalCommand, type ReceivewalCommand } from '../../src/receiver/receivewal-command.ts';

const POSTGRES: PostgresSettings = {
  conninfo: null,
  streamingConninfo: null,
  walConninfo: null,
  walStreamingConninfo: 'host=db user=streamer',
  slotName: 'walwarden',
  streamingName: 'barman_receive_wal',
};

function command(
  postgres: Partial<PostgresSettings>,
  { synchronous = false, major = 15, stallTimeoutMs = 60_000 } = {},
  ours: NodeJS.ProcessEnv = {},
): ReceivewalCommand {
  const program = { path: '/usr/bin/pg_receivewal', version: `${major}.1`, major };
  const settings = {
    streamingDirectory: '/srv/main/streaming',
    postgres: { ...POSTGRES, ...postgres },
    stallTimeoutMs,
  };
  return receivewalCommand(settings, { program, synchronous }, ours);
}

test('pg_receivewal is told everything that it needs', () => {
  expect(command({})).toMatchObject({
    program: '/usr/bin/pg_receivewal',
    args: [
      '--no-loop',
      '--no-password',
      '--verbose',
      '--status-interval=10',
      '--directory=/srv/main/streaming',
      '--slot=walwarden',
      '--dbname=user=streamer host=db application_name=barman_receive_wal tcp_user_timeout=60000',
    ],
  });
});

test.each([
  [0, 10],
  [60_000, 10],
  [39_000, 9],
  [5_000, 1],
  [1, 1],
])(
  'with a stall timeout of %d ms it tells its position every %d s, several times before that is over',
  (limit, wanted) => {
    expect(command({}, { stallTimeoutMs: limit }).args).toContain(`--status-interval=${wanted}`);
  },
);

test('--synchronous is for a synchronous standby, --slot for one with a slot', () => {
  expect(command({}, { synchronous: true }).args).toContain('--synchronous');
  expect(command({ slotName: null }).args.join(' ')).not.toContain('--slot');
});

test('streaming_archiver_name is the application_name, whatever the conninfo says', () => {
  const { args } = command({
    walStreamingConninfo: 'host=db application_name=theirs replication=true',
    streamingName: "it's ours",
  });
  expect(args.at(-1)).toContain(String.raw`application_name='it\'s ours'`);
  expect(args.at(-1)).not.toMatch(/theirs|replication/);
});

test.each(["host=db password='s3cret word'", 'postgresql://me:s3cret%20word@db/x'])(
  'the password of %j goes into the environment',
  (walStreamingConninfo) => {
    const { args, env } = command({ walStreamingConninfo });
    expect(args.join(' ')).not.toContain('s3cret');
    expect(env['PGPASSWORD']).toBe('s3cret word');
  },
);

test('without a password the one of our own environment stays', () => {
  expect(command({}, {}, { PGPASSWORD: 'theirs' }).env).toMatchObject({ PGPASSWORD: 'theirs', LC_ALL: 'C' });
  expect(command({}).env).not.toHaveProperty('PGPASSWORD');
});

test('a connection that was cut in silence is noticed after a minute, unless the user knows better', () => {
  const conninfo = (walStreamingConninfo: string, major = 15): string =>
    command({ walStreamingConninfo }, { major }).args.at(-1) ?? '';
  expect(conninfo('host=db')).toContain('tcp_user_timeout=60000');
  expect(conninfo('host=db tcp_user_timeout=5000')).toContain('tcp_user_timeout=5000');
  expect(conninfo('service=db')).not.toContain('tcp_user_timeout');
  // libpq has it since 12.
  expect(conninfo('host=db', 11)).not.toContain('tcp_user_timeout');
});

test('a conninfo that can not be understood is refused as that', () => {
  expect(() => command({ walStreamingConninfo: 'host db' })).toThrow(
    expect.objectContaining({ failure: 'misconfigured' }),
  );
});
