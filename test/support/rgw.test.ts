import { expect, test } from 'vitest';
import { Rgw } from './rgw.ts';

test('without the packages the gateway says which to install', async () => {
  const { PATH } = process.env;
  process.env['PATH'] = '/nowhere';
  try {
    await expect(Rgw.start()).rejects.toThrow(
      /apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common$/,
    );
  } finally {
    process.env['PATH'] = PATH;
  }
});
