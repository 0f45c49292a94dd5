/**
 * The routes of the fallback: what a request wants of which session.
 *
 * @module
 */

import { escapePattern, parseUrl } from "../../core/http.ts";
import { quote, Refusal } from "../../core/limits.ts";
import { AUTH_NOT_SERVED } from "../../core/protocol.ts";
import { mergeSlashes } from "../../core/routes.ts";
import { decodePart } from "../../core/signatures.ts";
import type { FallbackServer } from "./options.ts";

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
const SESSION = "/[0-9]{1,3}/[A-Za-z0-9_-]{8,64}";
const ACTION = "/(xhr_streaming|xhr|xhr_send)";
/** The recovery session of a stock client, in front of the route. */
const STOCK_SESSION = "(?:/r/[A-Za-z0-9_-]{16,128})?";

/** The routes of one fallback, behind the path of its server. */
export class Routes {
  readonly #pusher: Pick<FallbackServer, "path">;
  readonly #path: string | undefined;
  #pattern: RegExp | undefined;

  constructor(pusher: Pick<FallbackServer, "path">, path: string | undefined) {
    this.#pusher = pusher;
    this.#path = path;
  }

  /** What a request wants; null if it is for none of the routes. */
  find({ method, url }: Request): Route | null {
    if (method !== "POST" && method !== "OPTIONS") return null;
    // The host in it is the word of the client, and may not be a host.
    const parsed = parseUrl(url);
    if (parsed === null) return null;
    this.#pattern ??= this.#compile();
    const match = this.#pattern.exec(mergeSlashes(parsed.pathname));
    const [, id = "", key = "", action] = match ?? [];
    if (action === undefined) return null;
    const number = parseNumber(parsed.searchParams.get("n"));
    return { id, key: decodePart(key) ?? "", action, number };
  }

  #compile(): RegExp {
    const own = this.#pusher.path;
    const path = this.#path ?? `${own}/pusher`;
    const prefix = path.startsWith(`${own}/`)
      ? escapePattern(own) + STOCK_SESSION +
        escapePattern(path.slice(own.length))
      : escapePattern(path);
    return new RegExp(`^(${prefix}/app/([^/]+)${SESSION})${ACTION}$`);
  }
}

/** Reads the number of a request; null for anything else. */
function parseNumber(text: string | null): number | null {
  return text !== null && /^[0-9]{1,15}$/.test(text) ? Number(text) : null;
}

/** Refuses a request that is for none of the routes. */
export function unknownRoute({ method, url }: Request): Refusal {
  const path = parseUrl(url)?.pathname ?? url;
  // The last answer of a cascade is what a client reads.
  const [, name] = /\/pusher\/(auth|user-auth)(?:\/|$)/.exec(path) ?? [];
  return AUTH_NOT_SERVED.get(name) ??
    new Refusal(404, `There is no route for ${method} ${quote(path)}`);
}
