/**
 * How many sockets a server can hold: each takes a file descriptor of the process.
 *
 * @module
 */

/** Limits of this process; only Linux has such a file. */
const LIMITS_FILE = "/proc/self/limits";

/** The default where the limit of the process is higher or unknown. */
const MAX_SOCKETS = 100_000;

// Pages, API requests, webhooks and the runtime itself need descriptors, too.
const RESERVED_SHARE = 0.1;
const MIN_RESERVED = 64;

/** The default of `limits.sockets`: less than the process may open. */
export function defaultSockets(): number {
  return socketsWithin(readOpenFiles());
}

/** How many sockets fit into a number of descriptors, with room for the rest. */
export function socketsWithin(openFiles: number): number {
  const reserved = Math.max(
    MIN_RESERVED,
    Math.ceil(openFiles * RESERVED_SHARE),
  );
  const sockets = openFiles === Infinity ? Infinity : openFiles - reserved;
  return Math.max(1, Math.min(MAX_SOCKETS, sockets));
}

/**
 * How many sockets the server holds for a moment, with those of refused clients
 * that have not closed yet. Their room is part of the reserve.
 */
export function socketsWithRefused(sockets: number): number {
  return sockets + Math.min(sockets, Math.floor(8 + sockets / 25));
}

/** How many files the process may open; Infinity if that cannot be found out. */
export function readOpenFiles(): number {
  // A server in the memory of another runtime opens no files.
  if (!("Deno" in globalThis)) return Infinity;
  const permission = { name: "read", path: LIMITS_FILE } as const;
  // To request the permission could stop the program at a prompt.
  const granted = Deno.permissions.querySync(permission).state === "granted";
  if (!granted) return Infinity;
  try {
    return parseOpenFiles(Deno.readTextFileSync(LIMITS_FILE));
  } catch {
    // Another system, or the runtime wants all permissions for this file.
    return Infinity;
  }
}

/** Finds the limit that holds now; Infinity if there is none. */
export function parseOpenFiles(limits: string): number {
  const [, soft = ""] = /^Max open files +(\d+) /m.exec(limits) ?? [];
  return soft === "" ? Infinity : Number(soft);
}
