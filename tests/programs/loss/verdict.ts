/**
 * What has to hold for a row, and how rows are shown.
 *
 * @module
 */
import type { Row } from "./run.ts";

/** What a row has that it must not have, in sentences; nothing if all is well. */
export function faultsOf(row: Row): string[] {
  const faults = [...row.problems];
  const mustBeZero = (name: keyof Row, why: string) => {
    const count = row[name];
    if (count !== 0) faults.push(`${count} ${why}`);
  };
  mustBeZero("invented", "messages came that nobody had published there");
  if (row.kind === "stock") {
    if (row.lost === 0) {
      faults.push("nothing was lost: the faults did not bite");
    }
  } else {
    mustBeZero("lost", "messages were lost, and nobody was told");
    mustBeZero("outOfOrder", "messages came after later ones");
    // A server forgets the id of a stock client that it loses before a subscription,
    // and the next one then does not leave it out.
    if (row.kind === "ours" || row.nodes === 1) {
      mustBeZero("echoed", "messages came to whom they were not for");
    }
    if (row.kind === "ours") mustBeZero("duplicated", "messages came twice");
    if (row.beyond === undefined) {
      mustBeZero("reports", "gaps were reported, and the log was large enough");
    } else if (row.reports === 0 && canRunOut(row)) {
      faults.push("no gap was reported: the log was not too small");
    }
  }
  const name = [row.kind, row.transport, row.beyond].filter(Boolean).join(", ");
  return faults.map((fault) => `${name}, seed ${row.seed}: ${fault}`);
}

/**
 * Sessions run out while clients are away. Our client needs none, and over HTTP a
 * client is away only after five seconds.
 */
function canRunOut({ kind, beyond, transport }: Row): boolean {
  return beyond !== "sessions" || (kind !== "ours" && transport === "ws");
}

const COLUMNS: [title: string, of: (row: Row) => string | number][] = [
  ["kind", ({ kind }) => kind],
  ["transport", ({ transport }) => transport],
  ["log", ({ beyond }) => beyond === undefined ? "ample" : `few ${beyond}`],
  ["cuts", ({ faults }) => Object.values(faults).reduce((a, b) => a + b, 0)],
  ["reconnects", ({ reconnects }) => reconnects],
  ["expected", ({ expected }) => expected],
  ["delivered", ({ delivered }) => delivered],
  ["lost", ({ lost }) => lost],
  ["twice", ({ duplicated }) => duplicated],
  ["disorder", ({ outOfOrder }) => outOfOrder],
  ["echoed", ({ echoed }) => echoed],
  ["reported", ({ reported }) => reported],
  ["reports", ({ reports }) => reports],
];

/** The rows as a table, for people. */
export function table(rows: readonly Row[]): string {
  const lines = [
    COLUMNS.map(([title]) => title),
    ...rows.map((row) => COLUMNS.map(([, of]) => `${of(row)}`)),
  ];
  const widths = COLUMNS.map((_, i) =>
    Math.max(...lines.map((line) => line[i]?.length ?? 0))
  );
  return lines.map((line) =>
    line.map((cell, i) => {
      const width = widths[i] ?? 0;
      // Numbers stand under each other.
      return /^\d+$/.test(cell) ? cell.padStart(width) : cell.padEnd(width);
    }).join("  ").trimEnd()
  ).join("\n");
}
