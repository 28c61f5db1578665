import type { CompressionName } from '../../src/compression/codec.ts';
import { useGpgKey } from '../storage/with-gpg-key.ts';
import { withStorage, type StorageOptions } from '../storage/with-storage.ts';
import { describeWalStorageStrategy, type StorageUnderTest } from './wal-storage-strategy.ts';

const key = useGpgKey();

function local(label: string, compression: CompressionName | null, encrypted: boolean): void {
  describeWalStorageStrategy({ label, compression, encrypted }, (body) => {
    const gpg: StorageOptions = encrypted
      ? {
          encryption: { keyId: key().keyId, homedir: key().homedir },
          keys: { gnupgHome: key().homedir },
        }
      : {};
    return withStorage({ compression, ...gpg }, ({ incoming, catalogue, keys, open }) => {
      const storage: StorageUnderTest = { incoming, catalogue, keys, open };
      return body(storage);
    });
  });
}

local('local, no compression', null, false);
local('local, gzip', 'gzip', false);
local('local, zstd', 'zstd', false);
local('local, gzip and gpg', 'gzip', true);
