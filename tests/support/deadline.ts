/**
 * Deadlines, for everything that a test waits for. They run in real time where a
 * test has its time faked.
 *
 * @module
 */

/** Ample on a busy machine: what passes takes milliseconds. */
export const DEADLINE_MS = 20_000;

const { setTimeout: startTimer, clearTimeout: stopTimer } = globalThis;

/** Rejects, naming what was awaited, when it takes longer than it may. */
export async function within<T>(
  ms: number,
  what: string,
  promise: Promise<T>,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = startTimer(
      () =>
        reject(
          new Error(`Cannot wait longer: no ${what} in ${Math.round(ms)} ms`),
        ),
      ms,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    stopTimer(timer);
  }
}
