const last = new Map<string, Promise<unknown>>();

/** Does what has the same key one after the other, in this process. */
export async function oneByOne<T>(key: string, work: () => Promise<T>): Promise<T> {
  const before = last.get(key);
  const mine = after(before, work);
  last.set(key, mine);
  try {
    return await mine;
  } finally {
    if (last.get(key) === mine) last.delete(key);
  }
}

async function after<T>(before: Promise<unknown> | undefined, work: () => Promise<T>): Promise<T> {
  // How it ended is told to whoever asked for it.
  await before?.catch(() => {});
  return work();
}
