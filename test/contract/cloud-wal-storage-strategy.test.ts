import type { CompressionName } from '../../src/compression/codec.ts';
import { withCloudStorage, type CloudOptions } from '../storage/with-cloud-storage.ts';
import { useGpgKey } from '../storage/with-gpg-key.ts';
import { describeS3 } from '../support/s3.ts';
import { describeWalStorageStrategy, type StorageUnderTest } from './wal-storage-strategy.ts';

const key = useGpgKey();

describeS3('WAL in S3', (server) => {
  function cloud(compression: CompressionName | null, encrypted = false): void {
    const label = `${server.kind}, ${compression ?? 'no compression'}${encrypted ? ' and gpg' : ''}`;
    describeWalStorageStrategy({ label, compression, encrypted, replaces: server.kind === 'rgw' }, (body) =>
      server.withBucket((endpoint) => {
        const gpg: CloudOptions = encrypted
          ? { encryption: { keyId: key().keyId, homedir: key().homedir }, keys: { gnupgHome: key().homedir } }
          : {};
        return withCloudStorage(endpoint, { compression, ...gpg }, ({ incoming, catalogue, keys, open }) => {
          const storage: StorageUnderTest = { incoming, catalogue, keys, open };
          return body(storage);
        });
      }),
    );
  }

  cloud(null);
  cloud('gzip');
  cloud('zstd');
  cloud('gzip', true);
});
