#!/usr/bin/env node
// The second executable, walwarden-patroni: what Patroni calls in place of patroni_barman.

const failed = (error: unknown): never => {
  try {
    process.stderr.write(`ERROR: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  } finally {
    process.exit(1);
  }
};
process.on('uncaughtException', failed);
try {
  const { main } = await import('./patroni/program.ts');
  // Not only the status: a name that is still being looked up would keep us, and who stopped us is waiting.
  process.exit(await main(process.argv.slice(2)));
} catch (error) {
  failed(error);
}
