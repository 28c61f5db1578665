import { symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { buildModule } from '../../durable/build-module.ts';
import { run } from '../../support/run.ts';
import { awsEnvironment, withoutAws } from '../../support/s3-endpoint.ts';
import { describeS3 } from '../../support/s3.ts';
import { withTempDir } from '../../support/temp-dir.ts';

const NODE_MODULES = fileURLToPath(new URL('../../../node_modules', import.meta.url));

/** Says after each step whether the SDK is loaded, and never closes its connections. */
const PROGRAM = `
  import { createRequire } from 'node:module';
  const [, module, url, region, bucket] = process.argv;
  const { ObjectStore } = await import(module);
  const isLoaded = () => Object.keys(createRequire(module).cache).some((path) => path.includes('@aws-sdk'));
  const store = new ObjectStore({ bucket, endpoint: url, region, forcePathStyle: true });
  const before = isLoaded();
  const { outcome } = await store.putIfAbsent('k', Buffer.from('x'));
  console.log(JSON.stringify({ before, outcome, after: isLoaded() }));
`;

describeS3('the SDK', (server) => {
  test('is loaded by the first request and not before, says nothing, and keeps no process alive', () =>
    server.withBucket((s3) =>
      withTempDir(async (directory) => {
        await symlink(NODE_MODULES, join(directory, 'node_modules'));
        const module = await buildModule('src/storage/s3/object-store.ts', directory);
        const args = ['--input-type=module', '-e', PROGRAM, module, s3.url, s3.region, s3.bucket];
        const { status, stdout, stderr } = await run(process.execPath, args, {
          env: { ...withoutAws(process.env), ...awsEnvironment(s3) },
        });
        expect(stderr).toBe('');
        expect(JSON.parse(stdout)).toEqual({ before: false, outcome: 'stored', after: true });
        expect(status).toBe(0);
      }),
    ));
});
