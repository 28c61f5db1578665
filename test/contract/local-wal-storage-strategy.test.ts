import { afterAll, beforeAll } from 'vitest';
import type { CompressionName } from '../../src/compression/codec.ts';
import { withGpgKey, type GpgKey } from '../storage/with-gpg-key.ts';
import { withStorage, type StorageOptions } from '../storage/with-storage.ts';
import { describeWalStorageStrategy, type StorageUnderTest } from './wal-storage-strategy.ts';

let key: GpgKey | undefined;
let keyDone: () => void = () => undefined;
let cleanedUp: Promise<void> = Promise.resolve();

beforeAll(async () => {
  await new Promise<void>((resolve, reject) => {
    cleanedUp = withGpgKey(async (made) => {
      key = made;
      await new Promise<void>((done) => {
        keyDone = done;
        resolve();
      });
    });
    cleanedUp.catch(reject);
  });
});

afterAll(async () => {
  keyDone();
  await cleanedUp;
});

function local(label: string, compression: CompressionName | null, encrypted: boolean): void {
  describeWalStorageStrategy({ label, compression, encrypted }, (body) => {
    const gpg: StorageOptions =
      encrypted && key !== undefined
        ? {
            encryption: { keyId: key.keyId, homedir: key.homedir },
            keys: { gnupgHome: key.homedir },
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
