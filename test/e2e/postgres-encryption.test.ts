import { copyFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isGpgEncrypted } from '../../src/encryption/gpg.ts';
import { writeConfig } from '../support/cli.ts';
import { makeArchive, withArchivedPostgres } from './postgres-archive.ts';
import { KEY, PASSPHRASE, withKeyring } from './with-keyring.ts';

test('an encrypted archive takes duplicates without the secret key, and restores with it', () =>
  withArchivedPostgres({}, async (pg, plain) => {
    await withKeyring(pg, async (gnupg) => {
      const encrypting = { compression: 'zstd', encryption: 'gpg', encryption_key_id: KEY, gnupg_home: gnupg };
      const archive = await makeArchive(pg, encrypting);
      expect(archive.incoming).toBe(plain.incoming);
      const backup = await pg.baseBackup();
      await pg.sql('create table t as select i, md5(i::text) from generate_series(1, 20000) i');
      const name = await pg.writeSegments(3);
      await pg.archived(name);
      const { archived } = await archive.pass();
      expect(archived.map((file) => file.name)).toContain(name);
      expect(isGpgEncrypted(await readFile(archive.stored(name)))).toBe(true);

      // As if archive_command had come again; nobody here can decrypt.
      await copyFile(join(pg.walDir, name), join(archive.incoming, name));
      await pg.giveToServer(join(archive.incoming, name));
      expect(await archive.pass()).toMatchObject({ archived: [], duplicates: [name], conflicts: [] });
      expect(await readdir(archive.errors)).toEqual([]);
      const other = await readFile(join(pg.walDir, name));
      other[other.length - 1] = 0x55;
      await writeFile(join(archive.incoming, name), other);
      await pg.giveToServer(join(archive.incoming, name));
      const { status, pass } = await archive.anyPass();
      expect(status).toBe(1);
      expect(pass.conflicts).toMatchObject([{ name }]);
      expect(await readdir(archive.errors)).toEqual([expect.stringMatching(/\.duplicate$/)]);

      const without = await archive.getWal(name);
      expect(without).toMatchObject({ status: 200, stdout: '' });
      expect(without.stderr).toContain('HINT: set encryption_passphrase_command');

      const config = await writeConfig(await pg.makeDirectory(join(pg.directory, 'reader')), {
        home: archive.home,
        servers: { main: { ...encrypting, encryption_passphrase_command: `echo "${PASSPHRASE}"` } },
      });
      const reader = archive.withConfig(config);
      await pg.kill9();
      const restored = await pg.restore(backup, { restoreCommand: reader.restoreCommand });
      await restored.writable();
      expect(await restored.value('select count(*), max(i) from t')).toBe('20000');
      expect(await reader.timelines()).toMatchObject([{ timeline: 1, gaps: [], backups: 1 }]);
    });
  }));
