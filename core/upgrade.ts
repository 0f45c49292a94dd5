/**
 * The upgrade from HTTP to a WebSocket.
 *
 * @module
 */

// ---- Subprotocols -----------------------------------------------------------
// Most clients name the protocol version in the query and offer no subprotocol. A
// client that does offer some, such as the official Swift SDK, may end a connection
// whose answer names none of them, as browsers do.

/** The subprotocols that the server speaks, with the version that each names. */
const VERSIONS: ReadonlyMap<string, string> = new Map([
  ["pusher-channels-protocol-5", "5"],
  ["pusher-channels-protocol-6", "6"],
  ["pusher-channels-protocol-7", "7"],
]);

/**
 * The first subprotocol that a client offers and the server speaks, or null. After
 * the upgrade the headers of the request can no longer be read.
 */
export function chooseSubprotocol({ headers }: Request): string | null {
  const offers = headers.get("sec-websocket-protocol");
  if (offers === null) return null;
  const names = offers.split(",").map((name) => name.trim());
  return names.find((name) => VERSIONS.has(name)) ?? null;
}

/**
 * Names the chosen subprotocol in the answer to an upgrade. The runtime's own option
 * for it throws at lists without a space after each comma.
 */
export function answerSubprotocol(
  { headers }: Response,
  subprotocol: string | null,
): void {
  if (subprotocol === null) return;
  headers.set("sec-websocket-protocol", subprotocol);
}

/**
 * The protocol version that a client names: in its query, or else by a subprotocol
 * that the server speaks. Null if it names none.
 */
export function namedVersion(
  query: URLSearchParams,
  request: Request,
): string | null {
  const version = query.get("protocol");
  if (version !== null) return version;
  const subprotocol = chooseSubprotocol(request);
  return subprotocol === null ? null : VERSIONS.get(subprotocol) ?? null;
}
