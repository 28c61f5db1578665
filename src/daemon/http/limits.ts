import { MAX_DELIVERED_SIZE } from '../../durable/delivered-file.ts';
import type { TurnLimits } from './turns.ts';

// What one client can take of us.

/** Bytes of a request's first line and headers. */
export const MAX_HEADER_SIZE = 16 * 1024;
/** Characters of a name in a path. */
export const MAX_PARAMETER_LENGTH = 1024;
/** Headers have to be there after so many milliseconds. */
export const HEADERS_TIMEOUT_MS = 15_000;
/** Overdue headers are looked for so often, in milliseconds. */
export const TIMEOUT_CHECK_MS = 5_000;
export const TLS_HANDSHAKE_TIMEOUT_MS = 5_000;
/** A body may stand still for so long; how long it takes as a whole doesn't matter. */
export const BODY_SILENCE_MS = 60_000;
/** Nothing moves on a connection: we read an archive that is slow, or the client doesn't read. */
export const SILENCE_MS = 10 * 60_000;
/** A file that was sent has to be stored, or refused, in so many milliseconds: PostgreSQL waits, and sends it again. */
export const DEPOSIT_MS = 60_000;
/** A disk on which one call takes longer, in milliseconds, does not answer. */
export const DISK_PATIENCE_MS = 5_000;
export const KEEP_ALIVE_MS = 60_000;
/** What is still sent after our answer is read, and forgotten, for so long: a client that is cut off at once may miss the answer. */
export const LINGER_MS = 5_000;
export const MAX_CONNECTIONS = 256;
export const MAX_BODY_SIZE = MAX_DELIVERED_SIZE;
/** Delivered files, each of which is in memory then, plain and as it came. */
export const JUDGED_AT_A_TIME: TurnLimits = { each: 1, together: 2, waiting: 32 };
/** Requests that look whether a server's directories are there. Each keeps a thread of ours busy while its file system hangs. */
export const LET_IN_AT_A_TIME: TurnLimits = { each: 2, together: Infinity, waiting: 32 };
/** Requests that look for a file. The same goes for them. */
export const FOUND_AT_A_TIME: TurnLimits = { each: 8, together: Infinity, waiting: 64 };
/** WAL files of up to {@link FILE_SIZE} that are held until they are sent; larger ones count as several. */
export const SENT_AT_A_TIME: TurnLimits = { each: 8, together: 16, waiting: 64 };
export const FILE_SIZE = 64 * 1024 * 1024;
/** Who is refused is a warning in the log so often, for each address. */
export const REFUSAL_EVERY_MS = 60_000;
/** Whoever is told that we can't tell asks again after so many seconds. */
export const RETRY_AFTER_S = 5;
