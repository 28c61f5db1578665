import { randomBytes } from 'node:crypto';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createCompressor } from '../../src/compression/codecs.ts';
import { decryptGpg, encryptGpg, isGpgEncrypted } from '../../src/encryption/gpg.ts';
import { isErrorCode } from '../../src/errors.ts';
import { realSegments } from '../support/fixture.ts';
import { run } from '../support/run.ts';
import { withTempDir } from '../support/temp-dir.ts';

const PASSPHRASE = 'correct horse; $battery "staple"';
const OPEN = 'open@walwarden.test';
const LOCKED = 'locked@walwarden.test';
const MIB = 1024 * 1024;
const PATH = process.env['PATH'];

/** A keyring with one key without a passphrase and one with. */
let homedir = '';
let wal: Buffer = Buffer.alloc(0);
let directoryDone: () => void = () => undefined;
let cleanedUp: Promise<void> = Promise.resolve();

beforeAll(async () => {
  wal = [...(await realSegments()).values()][0] ?? wal;
  await new Promise<void>((resolve, reject) => {
    cleanedUp = withTempDir(async (directory) => {
      homedir = directory;
      await makeKey(OPEN, '');
      await makeKey(LOCKED, PASSPHRASE);
      await forgetPassphrases();
      resolve();
      await new Promise<void>((done) => (directoryDone = done));
      await forgetPassphrases();
    });
    cleanedUp.catch(reject);
  });
});

afterAll(async () => {
  directoryDone();
  await cleanedUp;
});

afterEach(() => {
  process.env['PATH'] = PATH;
});

async function gpg(args: readonly string[], input: Uint8Array | string = '', home = homedir): Promise<Buffer> {
  const { status, stderr, bytes } = await run('gpg', ['--homedir', home, '--batch', '-q', ...args], { input });
  if (status !== 0) throw new Error(`gpg ${args.join(' ')}: ${status}: ${stderr}`);
  return bytes;
}

async function makeKey(address: string, passphrase: string): Promise<void> {
  await gpg(['--pinentry-mode', 'loopback', '--passphrase', passphrase, '--quick-gen-key', address, 'rsa2048', 'encr']);
}

/** The agent remembers what opened a key. */
async function forgetPassphrases(home = homedir): Promise<void> {
  await run('gpgconf', ['--homedir', home, '--kill', 'all'], {});
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

const passphraseCommand = `echo ${shellQuoted(PASSPHRASE)}`;

describe('encryption', () => {
  it('is undone by gpg itself and by us', async () => {
    for (const content of [wal, Buffer.from('1\t0/15000000\tno recovery target\n'), Buffer.alloc(0)]) {
      const encrypted = await encryptGpg(content, { keyId: OPEN, homedir });
      expect(isGpgEncrypted(encrypted.subarray(0, 64))).toBe(true);
      expect((await gpg(['--decrypt'], encrypted)).equals(content)).toBe(true);
      expect((await decryptGpg(encrypted, { homedir, maxSize: MIB })).equals(content)).toBe(true);
    }
  });

  it('reads what gpg encrypts, compressed by it or not, to a key or to several', async () => {
    for (const options of [[], ['--compress-algo', 'zip'], ['--recipient', LOCKED]]) {
      const args = ['--encrypt', '--trust-model', 'always', ...options, '--recipient', OPEN];
      const encrypted = await gpg(args, wal);
      expect((await decryptGpg(encrypted, { homedir, maxSize: MIB })).equals(wal)).toBe(true);
    }
  });

  it('opens a key with the passphrase that the command prints', async () => {
    const encrypted = await encryptGpg(wal, { keyId: LOCKED, homedir });
    for (const command of [passphraseCommand, `printf %s ${shellQuoted(PASSPHRASE)}`]) {
      await forgetPassphrases();
      const content = await decryptGpg(encrypted, { homedir, passphraseCommand: command, maxSize: MIB });
      expect(content.equals(wal)).toBe(true);
    }
  });

  it('is not compressed by gpg, nor armoured whatever gpg.conf says', async () => {
    const config = join(homedir, 'gpg.conf');
    await writeFile(config, 'armor\ncompress-algo zlib\n');
    try {
      const encrypted = await encryptGpg(wal, { keyId: OPEN, homedir });
      expect(isGpgEncrypted(encrypted)).toBe(true);
      expect(encrypted.length).toBeGreaterThan(wal.length);
    } finally {
      await writeFile(config, '');
    }
  });

  it('gives back any bytes (property)', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 20_000 }), async (content) => {
        const encrypted = await encryptGpg(content, { keyId: OPEN, homedir });
        expect((await decryptGpg(encrypted, { homedir, maxSize: content.length })).equals(content)).toBe(true);
      }),
      { numRuns: 5 },
    );
  });

  it('shows the passphrase in no command line and no environment', async () => {
    await withTempDir(async (directory) => {
      // A gpg that writes down what everybody could see of it, and goes on as gpg.
      const seen = join(directory, 'seen');
      const script = `#!/bin/sh\n{ echo "$@"; env; } > ${seen}\nPATH=${shellQuoted(PATH ?? '')} exec gpg "$@"\n`;
      await writeFile(join(directory, 'gpg'), script, { mode: 0o755 });
      const encrypted = await encryptGpg(wal, { keyId: LOCKED, homedir });
      await forgetPassphrases();
      process.env['PATH'] = `${directory}:${PATH}`;
      await decryptGpg(encrypted, { homedir, passphraseCommand, maxSize: MIB });
      expect(await readFile(seen, 'utf8')).toContain('--passphrase-fd 3');
      expect(await readFile(seen, 'utf8')).not.toContain('horse');
    });
  });
});

describe('what goes wrong', () => {
  it('an unknown key is named, with the keyring that was searched', async () => {
    await expect(encryptGpg(wal, { keyId: 'nobody@walwarden.test', homedir })).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(
        /^encryption key "nobody@walwarden.test" is not found in the keyring \(keyring of user \w+ in \//,
      ),
      hint: expect.stringMatching(/gpg --homedir \S+ --list-keys" as user /),
    });
  });

  it('an expired key is not called missing', async () => {
    await gpg([
      '--faked-system-time',
      '20200101T000000',
      '--passphrase',
      '',
      '--quick-gen-key',
      'old@x',
      'rsa2048',
      'encr',
      '1d',
    ]);
    const listing = (await gpg(['--with-colons', '--list-keys', 'old@x'])).toString();
    const fingerprint = /^fpr:+([0-9A-F]{40}):/m.exec(listing)?.[1] ?? '';
    for (const keyId of ['old@x', fingerprint]) {
      await expect(encryptGpg(wal, { keyId, homedir })).rejects.toMatchObject({
        code: 'program',
        message: expect.stringMatching(`^encryption key "${keyId}" can't be used: it has expired`),
      });
    }
  });

  it('a wrong passphrase, and a missing one', async () => {
    const encrypted = await encryptGpg(wal, { keyId: LOCKED, homedir });
    await forgetPassphrases();
    await expect(
      decryptGpg(encrypted, { homedir, passphraseCommand: 'echo wrong', maxSize: MIB }),
    ).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(/^the passphrase does not open the secret key/),
    });
    await expect(decryptGpg(encrypted, { homedir, maxSize: MIB })).rejects.toMatchObject({
      code: 'program',
      message: expect.stringMatching(
        /^the secret key \(keyring of .*\) needs a passphrase|^the secret key needs a passphrase/,
      ),
      hint: 'set encryption_passphrase_command',
    });
  });

  it.each([
    ['fails', 'echo "the secret" >&2; exit 4', /^encryption_passphrase_command fails \(exit status 4\)$/],
    ['gives nothing', 'true', /^encryption_passphrase_command gives nothing$/],
    ['is not there', 'no-such-command', /exit status 127/],
    ['does not end', 'yes', /gives no end of output/],
  ])('a passphrase command that %s', async (_case, command, message) => {
    const encrypted = await encryptGpg(wal, { keyId: LOCKED, homedir });
    const decrypting = decryptGpg(encrypted, { homedir, passphraseCommand: command, maxSize: MIB });
    await expect(decrypting).rejects.toMatchObject({ code: 'program', message: expect.stringMatching(message) });
    await expect(decrypting).rejects.not.toMatchObject({ message: expect.stringMatching(/the secret/) });
  });

  it('a message for a key that is not ours', async () => {
    await withTempDir(async (directory) => {
      const empty = join(directory, 'e');
      await mkdir(empty, { mode: 0o700 });
      const encrypted = await encryptGpg(wal, { keyId: OPEN, homedir });
      await expect(decryptGpg(encrypted, { homedir: empty, maxSize: MIB })).rejects.toMatchObject({
        code: 'program',
        message: expect.stringMatching(/^no secret key for this file, which is encrypted to [0-9A-F]{16} /),
        hint: expect.stringMatching(/--list-secret-keys/),
      });
      await forgetPassphrases(empty);
    });
  });

  it('gpg that is not installed', async () => {
    process.env['PATH'] = '/nonexistent';
    const expected = {
      code: 'program',
      message: 'the program gpg is not found in PATH',
      hint: expect.stringMatching(/apt-get install gpg/),
    };
    await expect(encryptGpg(wal, { keyId: OPEN, homedir })).rejects.toMatchObject(expected);
    await expect(decryptGpg(wal, { homedir, maxSize: MIB })).rejects.toMatchObject(expected);
  });

  it('gpg that breaks, without a word on the data', async () => {
    await withTempDir(async (directory) => {
      await writeFile(join(directory, 'gpg'), '#!/bin/sh\necho "gpg: Fatal: no memory" >&2\nexit 2\n', { mode: 0o755 });
      process.env['PATH'] = `${directory}:${PATH}`;
      await expect(decryptGpg(wal, { homedir, maxSize: MIB })).rejects.toMatchObject({
        code: 'program',
        message: 'gpg ended with exit status 2: Fatal: no memory',
      });
    });
  });

  it('a message cut short is damaged, wherever it is cut', async () => {
    const encrypted = await encryptGpg(wal, { keyId: OPEN, homedir });
    const packet = 3 + encrypted.readUInt16BE(1);
    for (const cut of [6, 100, packet, packet + 1, packet + 20, 30_000, encrypted.length - 1]) {
      const decrypting = decryptGpg(encrypted.subarray(0, cut), { homedir, maxSize: MIB });
      await expect(decrypting, `cut at ${cut}`).rejects.toMatchObject({ code: 'damaged' });
    }
  });

  it('flipped bits are damage, but in the id of the key', async () => {
    const encrypted = await encryptGpg(wal, { keyId: OPEN, homedir });
    const packet = 3 + encrypted.readUInt16BE(1);
    for (const position of [50, packet - 1, packet + 30, 40_000, encrypted.length - 1]) {
      const changed = Buffer.from(encrypted);
      changed.writeUInt8(changed.readUInt8(position) ^ 4, position);
      const decrypting = decryptGpg(changed, { homedir, maxSize: MIB });
      await expect(decrypting, `flip at ${position}`).rejects.toMatchObject({ code: 'damaged' });
    }
    const otherKey = Buffer.from(encrypted);
    otherKey.writeUInt8(otherKey.readUInt8(6) ^ 1, 6);
    await expect(decryptGpg(otherKey, { homedir, maxSize: MIB })).rejects.toMatchObject({
      message: expect.stringMatching(/^no secret key/),
    });
  });

  it('what follows the message is damage', async () => {
    const encrypted = await encryptGpg(Buffer.from('x'), { keyId: OPEN, homedir });
    const longer = Buffer.concat([encrypted, Buffer.from('garbage')]);
    await expect(decryptGpg(longer, { homedir, maxSize: MIB })).rejects.toMatchObject({ code: 'damaged' });
  });

  it('more than maxSize is damage: gpg compresses, and so makes bombs', async () => {
    const args = ['--encrypt', '--trust-model', 'always', '--compress-algo', 'zip', '--recipient', OPEN];
    const bomb = await gpg(args, Buffer.alloc(32 * MIB));
    await expect(decryptGpg(bomb, { homedir, maxSize: MIB })).rejects.toMatchObject({
      code: 'damaged',
      message: expect.stringMatching(/more than the 1048576 bytes/),
    });
  });

  it('an abort ends gpg', async () => {
    const signal = AbortSignal.abort();
    const encrypting: unknown = await encryptGpg(wal, { keyId: OPEN, homedir, signal }).catch(
      (error: unknown) => error,
    );
    expect(isErrorCode(encrypting, 'aborted')).toBe(true);
  });
});

describe('isGpgEncrypted', () => {
  it('knows messages for a key and for a passphrase', async () => {
    const symmetric = await gpg(['--pinentry-mode', 'loopback', '--passphrase', 'x', '--symmetric'], wal);
    expect(isGpgEncrypted(symmetric.subarray(0, 6))).toBe(true);
    expect(isGpgEncrypted(Buffer.from('c1c14e0312345678', 'hex'))).toBe(true);
  });

  it('takes nothing else for one: WAL of all versions, what compresses it, text, few bytes', async () => {
    for (const magic of [0xd097, 0xd098, 0xd101, 0xd106, 0xd10d, 0xd110, 0xd113, 0xd116, 0xd118, 0xd122]) {
      const page = Buffer.concat([Buffer.alloc(2), randomBytes(14)]);
      page.writeUInt16LE(magic, 0);
      expect(isGpgEncrypted(page)).toBe(false);
    }
    for (const compression of ['gzip', 'bzip2', 'xz', 'zstd', 'lz4', 'snappy'] as const) {
      expect(isGpgEncrypted(await createCompressor({ compression }).compress(wal))).toBe(false);
    }
    for (const content of [Buffer.alloc(0), Buffer.from([0x85]), Buffer.from([0x85, 1]), Buffer.from('START WAL')]) {
      expect(isGpgEncrypted(content)).toBe(false);
    }
  });

  it('leaves nothing in the keyring directory but gpg its own files', async () => {
    expect((await readdir(homedir)).filter((name) => /wal|tmp/.test(name))).toEqual([]);
  });
});
