/** Why a message was not decrypted; null when gpg itself failed. */
export type DecryptionFailure = 'wrong-passphrase' | 'no-passphrase' | 'no-secret-key' | 'damaged';

/** What gpg says on its status descriptor (gnupg/doc/DETAILS), as far as it matters here. */
export interface GpgStatus {
  readonly decryptionOkay: boolean;
  readonly failure: DecryptionFailure | null;
  /** Ids of the keys that the message is for. */
  readonly encryptedTo: readonly string[];
  /** The key to encrypt to is not there, or there but expired, revoked or for signatures only. */
  readonly invalidRecipient: 'not-found' | 'not-usable' | null;
  /** The line meant for people that tells most; empty when there is none. */
  readonly message: string;
}

const STATUS = /^\[GNUPG:\] (\S+) ?(.*)$/;

/** Codes of libgpg-error, in the lower 16 bits of what gpg prints. */
const WRONG_SECRET_KEY = 18;
const BAD_PASSPHRASE = 11;
/** Canceled, no pinentry, no passphrase, fully canceled: it would have had to ask somebody. */
const NOBODY_ANSWERED: readonly number[] = [99, 85, 177, 198];

/** Said of every message or before the point. */
const PREAMBLE = /encrypted with|keybox .* created|keyblock resource|^WARNING: unsafe|block_filter/;

/** Reads what gpg wrote to stderr under `--status-fd 2`: status lines and messages, mixed. */
export function readGpgStatus(messages: string): GpgStatus {
  const lines = messages.split('\n');
  const facts = new Map<string, string[]>();
  for (const line of lines) {
    const [, keyword, value = ''] = STATUS.exec(line) ?? [];
    if (keyword !== undefined) facts.set(keyword, [...(facts.get(keyword) ?? []), value]);
  }
  const told = lines.filter((line) => line.startsWith('gpg: ')).map((line) => line.slice('gpg: '.length));
  // Its reason codes don't tell, nor does the text: "no public key" is said of an expired one as well.
  const invalidRecipient = facts.has('KEY_CONSIDERED') ? 'not-usable' : 'not-found';
  return {
    decryptionOkay: facts.has('DECRYPTION_OKAY') && !facts.has('DECRYPTION_FAILED') && !facts.has('BADMDC'),
    failure: failureIn(facts),
    encryptedTo: (facts.get('ENC_TO') ?? []).map((value) => value.split(' ')[0] ?? ''),
    invalidRecipient: facts.has('INV_RECP') ? invalidRecipient : null,
    message: told.find((line) => !PREAMBLE.test(line)) ?? '',
  };
}

function failureIn(facts: ReadonlyMap<string, readonly string[]>): DecryptionFailure | null {
  // The session key was there: whatever fails from then on, it is the data.
  if (facts.has('DECRYPTION_KEY') || facts.has('BADMDC') || facts.has('NODATA')) return 'damaged';
  const codes = (facts.get('ERROR') ?? [])
    .filter((value) => value.startsWith('pkdecrypt_failed '))
    .map((value) => Number(value.split(' ')[1]) & 0xffff);
  if (codes.includes(BAD_PASSPHRASE)) return 'wrong-passphrase';
  if (codes.some((code) => NOBODY_ANSWERED.includes(code))) return 'no-passphrase';
  // The key fits by its id, the session key that it opens makes no sense.
  if (codes.includes(WRONG_SECRET_KEY)) return 'damaged';
  if (facts.has('NO_SECKEY')) return 'no-secret-key';
  // A message for a passphrase: here a wrong one can't be told from damage.
  if (facts.has('NEED_PASSPHRASE_SYM')) return 'wrong-passphrase';
  // An agent that can't be reached, say: nothing is wrong with the message.
  return facts.has('DECRYPTION_FAILED') && codes.length === 0 ? 'damaged' : null;
}
