import type { ReceiveWalOptions } from '../commands/receive-wal.ts';
import type { AddCommand, Execute } from './execution.ts';

/** `receive-wal`: in the foreground, or one of the things that a person does with a receiver. */
export function addReceiveWal(add: AddCommand, execute: Execute): void {
  add('receive-wal', 'receive WAL by streaming replication until stopped, in the foreground; or, with an option, only:')
    .option('--stop', 'stop the receive-wal that runs')
    .option('--reset', 'begin again where the server is: an old partial file is moved to errors')
    .option('--create-slot', 'make the replication slot slot_name')
    .option('--if-not-exists', 'with --create-slot: a slot that exists is fine')
    .option('--drop-slot', 'remove the replication slot slot_name')
    .argument('<server>', 'name of a server')
    .action(async (name: string, options: ReceiveWalOptions, self) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('../commands/receive-wal.ts')).receiveWal(context, name, options),
      }),
    );
}

/** `terminate-process`: what Barman 3.20 says for `receive-wal --stop`. */
export function addTerminateProcess(add: AddCommand, execute: Execute): void {
  add('terminate-process', 'stop the receive-wal that runs for a server, as receive-wal --stop does')
    .argument('<server>', 'name of a server')
    .argument('<task>', 'receive-wal')
    .action(async (name: string, task: string, _options, self) =>
      execute(self, {
        home: 'writes',
        run: async (context) => (await import('../commands/receive-wal.ts')).terminateProcess(context, name, task),
      }),
    );
}
