import { userInfo } from 'node:os';
import {
  maxCompressedSize,
  plainEnvironment,
  programFailed,
  reasonIn,
  runFilter,
  type Command,
  type FilterEnd,
} from '../compression/external-program.ts';
import { WalwardenError, errnoOf } from '../errors.ts';
import { readGpgStatus, type GpgStatus } from './gpg-status.ts';

export interface EncryptOptions {
  /** Whatever gpg takes for a recipient: fingerprint, key id, address. */
  readonly keyId: string;
  /** gpg's own default when absent. */
  readonly homedir?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface DecryptOptions {
  /** A shell command line; its stdout is the passphrase. Without it gpg-agent must know it, or the key has none. */
  readonly passphraseCommand?: string | undefined;
  readonly homedir?: string | undefined;
  /** Bytes. More than these is damage. */
  readonly maxSize: number;
  readonly signal?: AbortSignal | undefined;
}

const MAX_PASSPHRASE = 64 * 1024;

/**
 * An OpenPGP message of these bytes for one key, binary, not compressed again.
 * The key needs no trust: the configuration names it.
 *
 * @throws WalwardenError `program` when the key is not there or not usable, gpg is missing or fails; `aborted`
 */
export async function encryptGpg(data: Uint8Array, options: EncryptOptions): Promise<Buffer> {
  const { keyId, homedir, signal } = options;
  // The user's gpg.conf may ask for armour, and for keys from the network.
  const recipientArgs = ['--recipient', keyId, '--trust-model', 'always', '--no-auto-key-locate'];
  const command = gpg(homedir, ['--encrypt', ...recipientArgs, '--compress-algo', 'none', '--no-armor']);
  const maxOutput = maxCompressedSize(data.length);
  const end = await runFilter(command, data, { maxOutput, env: plainEnvironment(), signal });
  const status = readGpgStatus(end.messages);
  if (status.invalidRecipient !== null) {
    const why = {
      'not-found': 'is not found in the keyring',
      'not-usable': "can't be used: it has expired, was revoked, or is not made for encryption",
    }[status.invalidRecipient];
    throw new WalwardenError('program', `encryption key ${JSON.stringify(keyId)} ${why}${whose(homedir)}`, {
      hint: `look at "gpg ${homedirArgs(homedir, '--list-keys').join(' ')}" as user ${userName()}`,
    });
  }
  if (end.status !== 0 || end.tooMuch) throw gpgFailed(command, end, status, maxOutput);
  return end.output;
}

/**
 * The content of an OpenPGP message, its integrity verified.
 *
 * @throws WalwardenError `damaged` when the message is cut short, changed, or
 * larger than `maxSize`; `program` when the passphrase is wrong or missing, no
 * secret key fits, or gpg is missing or fails; `aborted`. A flipped bit in the
 * id of the key looks as if the secret key were missing.
 */
export async function decryptGpg(data: Uint8Array, options: DecryptOptions): Promise<Buffer> {
  const { passphraseCommand, homedir, maxSize, signal } = options;
  const passphrase = passphraseCommand === undefined ? undefined : await askPassphrase(passphraseCommand, signal);
  // Never a pinentry window: with nobody there to answer, it would wait for ever.
  const asking = passphrase === undefined ? ['error'] : ['loopback', '--passphrase-fd', '3'];
  const command = gpg(homedir, ['--decrypt', '--pinentry-mode', ...asking]);
  const end = await runFilter(command, data, {
    maxOutput: maxSize,
    env: plainEnvironment(),
    ...(passphrase === undefined ? {} : { extraInput: passphrase }),
    signal,
  });
  if (end.tooMuch) throw damaged(`it decrypts to more than the ${maxSize} bytes that can be expected here`);
  const status = readGpgStatus(end.messages);
  // The exit status alone won't do: of a message cut after its first packet gpg makes nothing, and says 0.
  if (end.status === 0 && status.decryptionOkay) return end.output;
  throw whyNotDecrypted(command, end, status, options);
}

/**
 * True when a file begins with a session key packet, for a public key or a
 * passphrase (RFC 4880, 4.2, 5.1 and 5.3). Six bytes are enough. ASCII armour
 * is not recognised: nobody writes WAL so.
 */
export function isGpgEncrypted(head: Uint8Array): boolean {
  const [first, second] = head;
  if (first === undefined || second === undefined || first < 0x80) return false;
  const isNewFormat = (first & 0x40) !== 0;
  const tag = isNewFormat ? first & 0x3f : (first >> 2) & 0x0f;
  const lengthBytes = isNewFormat ? newLengthBytes(second) : [1, 2, 4, null][first & 3];
  if (lengthBytes === undefined || lengthBytes === null) return false;
  const version = head[1 + lengthBytes];
  if (version === undefined) return false;
  return (tag === 1 && (version === 3 || version === 6)) || (tag === 3 && version >= 4 && version <= 6);
}

/** Null for a partial length, which these packets can't have. */
function newLengthBytes(first: number): number | null {
  if (first < 192) return 1;
  if (first < 224) return 2;
  return first === 255 ? 5 : null;
}

function whyNotDecrypted(
  command: Command,
  end: FilterEnd,
  status: GpgStatus,
  { homedir, passphraseCommand, maxSize }: DecryptOptions,
): WalwardenError {
  const failure = end.status === 0 ? 'damaged' : status.failure;
  if (end.status === null || failure === null) return gpgFailed(command, end, status, maxSize);
  if (failure === 'damaged') return damaged(status.message === '' ? 'its end is missing' : status.message);
  const checkCommand = 'check what encryption_passphrase_command prints';
  const { message, hint } = {
    'wrong-passphrase': { message: 'the passphrase does not open the secret key', hint: checkCommand },
    'no-passphrase': {
      message: 'the secret key needs a passphrase',
      hint: passphraseCommand === undefined ? 'set encryption_passphrase_command' : checkCommand,
    },
    'no-secret-key': {
      message: `no secret key for this file, which is encrypted to ${status.encryptedTo.join(', ')}`,
      hint: `look at "gpg ${homedirArgs(homedir, '--list-secret-keys').join(' ')}" as user ${userName()}`,
    },
  }[failure];
  return new WalwardenError('program', `${message}${whose(homedir)}`, { hint });
}

function gpgFailed(command: Command, end: FilterEnd, status: GpgStatus, maxOutput: number): WalwardenError {
  return programFailed(command, { ...end, messages: status.message }, maxOutput);
}

function damaged(reason: string): WalwardenError {
  return new WalwardenError('damaged', `the encrypted data is damaged: ${reasonIn(reason)}`);
}

function gpg(homedir: string | undefined, args: readonly string[]): Command {
  const common = ['--batch', '--yes', '--no-tty', '--status-fd', '2', '--utf8-strings', '--output', '-'];
  return { program: 'gpg', args: [...homedirArgs(homedir), ...common, ...args] };
}

function homedirArgs(homedir: string | undefined, ...more: readonly string[]): string[] {
  return homedir === undefined ? [...more] : ['--homedir', homedir, ...more];
}

/** Whose keyring it was: it is the wrong user's more often than not. */
function whose(homedir: string | undefined): string {
  return ` (keyring of user ${userName()}${homedir === undefined ? '' : ` in ${homedir}`})`;
}

function userName(): string {
  try {
    return userInfo().username;
  } catch (error) {
    // Containers run under user ids that no passwd file knows.
    if (errnoOf(error) === undefined) throw error;
    return String(process.getuid?.());
  }
}

/** gpg takes the first line of what it gets. */
async function askPassphrase(commandLine: string, signal: AbortSignal | undefined): Promise<Buffer> {
  const command = { shell: commandLine };
  const end = await runFilter(command, new Uint8Array(), { maxOutput: MAX_PASSPHRASE, signal });
  const passphrase = end.output.subarray(0, lengthWithoutNewline(end.output));
  if (end.status === 0 && !end.tooMuch && passphrase.length > 0) return passphrase;
  // Neither its output nor its messages: a script under `set -x` prints the passphrase to stderr.
  const how = end.tooMuch
    ? 'gives no end of output'
    : end.status === 0
      ? 'gives nothing'
      : `fails (${howItEnded(end)})`;
  throw new WalwardenError('program', `encryption_passphrase_command ${how}`, {
    hint: `run it as user ${userName()}: ${commandLine}`,
  });
}

function howItEnded({ status, killedBy }: FilterEnd): string {
  return status === null ? (killedBy ?? 'a signal') : `exit status ${status}`;
}

function lengthWithoutNewline(bytes: Buffer): number {
  let length = bytes.length;
  if (bytes[length - 1] === 0x0a) length -= 1;
  if (bytes[length - 1] === 0x0d) length -= 1;
  return length;
}
