/**
 * Extensions of the protocol that a client asks for in the URL that it connects to.
 *
 * @module
 */

import { parameterOf } from "./parameters.ts";
import { isSocketId } from "./protocol.ts";
import { routePath } from "./routes.ts";

/** What a client has asked for in the URL that it connects to. */
export interface Extensions {
  /** Whether a frame may be an array of frames. */
  readonly batch: boolean;
  /** Whether the client wants positions, and can say where it was. */
  readonly recover: boolean;
  /** Socket ids that the client has had before. */
  readonly formerIds: readonly string[];
  /** Names the session of a stock client. */
  readonly sessionId: string | null;
}

/**
 * Reads `batch=1`, `recover=1` and `was=1.2,3.4` from the query, and `/r/{id}` from
 * the path, where it stands between the server's own path and the route.
 */
export function readExtensions(
  url: URL,
  path: string,
  hasHistory: boolean,
): Extensions {
  const recover = hasHistory && parameterOf(url, "recover") === "1";
  const { sessionId } = splitSession(routePath(url.pathname, path) ?? "");
  const was = parameterOf(url, "was")?.split(",", MAX_FORMER_IDS);
  return {
    batch: parameterOf(url, "batch") === "1",
    recover,
    formerIds: was?.filter(isSocketId) ?? NO_IDS,
    sessionId: hasHistory && !recover ? sessionId : null,
  };
}

// Most clients have none, and each connection refers to its own.
const NO_IDS: readonly string[] = Object.freeze([]);
// Long enough that nobody guesses it: a UUID has 36 characters.
const SESSION_PATH = /^\/r\/([A-Za-z0-9_-]{16,128})(?=\/)/;
// A message that leaves out a connection is rarely older than a few reconnects.
export const MAX_FORMER_IDS = 10;

/** Splits `/r/{id}`, which names a stock client's session, off a path. */
export function splitSession(
  path: string,
): { sessionId: string | null; rest: string } {
  if (!path.startsWith("/r/")) return { sessionId: null, rest: path };
  const [prefix = "", sessionId = null] = SESSION_PATH.exec(path) ?? [];
  return { sessionId, rest: path.slice(prefix.length) };
}
