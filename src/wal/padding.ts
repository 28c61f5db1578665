const ZEROS = Buffer.alloc(65_536);

/** Where the zeros begin that pg_receivewal has filled the rest of a partial segment with; 0 when it holds nothing else. */
export function endOfContent(bytes: Buffer): number {
  let end = bytes.length;
  for (;;) {
    const start = Math.max(0, end - ZEROS.length);
    const last = bytes.subarray(start, end);
    if (end === 0 || !last.equals(ZEROS.subarray(0, last.length))) {
      return start + last.findLastIndex((byte) => byte !== 0) + 1;
    }
    end = start;
  }
}
