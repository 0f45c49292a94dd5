/**
 * What somebody may have meant who has mistyped a name.
 *
 * @module
 */

/** The known name that is nearest to another one, if it is near at all. */
export function nearest(
  name: string,
  known: readonly string[],
): string | undefined {
  let best: string | undefined;
  // A third of its letters: more of them would be another word.
  let least = Math.max(1, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const begins = name.length > 2 && candidate.startsWith(name);
    const distance = begins ? 1 : distanceOf(name, candidate);
    if (distance >= least) continue;
    least = distance;
    best = candidate;
  }
  return best;
}

/** How many letters to add, drop, replace, or swap with the next, at least. */
function distanceOf(a: string, b: string): number {
  // Rows of the distances between the beginnings of both; the last two are needed.
  let [before, last]: [number[], number[]] = [[], []];
  for (let j = 0; j <= b.length; j++) last.push(j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] &&
        a[i - 2] === b[j - 1];
      row.push(Math.min(
        row[j - 1]! + 1,
        last[j]! + 1,
        last[j - 1]! + Number(!isSame),
        isSwapped ? before[j - 2]! + 1 : Infinity,
      ));
    }
    [before, last] = [last, row];
  }
  return last[b.length]!;
}
