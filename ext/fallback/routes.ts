/**
 * The routes of the fallback: what a request wants of which session.
 *
 * @module
 */

import { parseUrl } from "../../core/http.ts";
import { quote, Refusal } from "../../core/limits.ts";
import { AUTH_NOT_SERVED } from "../../core/protocol.ts";

/** What a request wants of which session. */
export interface Route {
  /** The session: the path without its last segment. */
  readonly id: string;
  /** The app's key, or "" if it is not escaped properly. */
  readonly key: string;
  readonly action: string;
  /** The client's number of the request; a retry has the same. */
  readonly number: number | null;
}

// Clients make up three digits and eight characters. Fewer characters could be
// guessed, and would give the session away; more do no harm.
export const SESSION = "/[0-9]{1,3}/[A-Za-z0-9_-]{8,64}";
export const ACTION = "/(xhr_streaming|xhr|xhr_send)";
/** The recovery session of a stock client, in front of the route. */
export const STOCK_SESSION = "(?:/r/[A-Za-z0-9_-]{16,128})?";

/** Refuses a request that is for none of the routes. */
export function unknownRoute({ method, url }: Request): Refusal {
  const path = parseUrl(url)?.pathname ?? url;
  // The last answer of a cascade is what a client reads.
  const [, name] = /\/pusher\/(auth|user-auth)(?:\/|$)/.exec(path) ?? [];
  return AUTH_NOT_SERVED.get(name) ??
    new Refusal(404, `There is no route for ${method} ${quote(path)}`);
}

/** Reads the number of a request; null for anything else. */
export function parseNumber(text: string | null): number | null {
  return text !== null && /^[0-9]{1,15}$/.test(text) ? Number(text) : null;
}
