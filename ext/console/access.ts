/**
 * Who may see the console: whoever the program says, whoever knows the password, or,
 * without either, whoever sits at the machine.
 *
 * @module
 */

import { scryptSync } from "node:crypto";
import { compileOrigins } from "../../core/http.ts";
import { equalsInConstantTime, hmac } from "../../core/signatures.ts";
import type { Awaitable, Clock } from "../../core/time.ts";
import { type Info, type Place, placeOf } from "../../core/places.ts";
import { Tries } from "./tries.ts";

/** Why a request is refused. */
export interface Denial {
  readonly status: 401 | 403 | 429 | 500;
  readonly error: string;
  /** Whether a password opens the console. */
  readonly takesPassword?: boolean;
  /** Seconds after which another try makes sense. */
  readonly retryAfterS?: number;
}

/** What decides. At most one of the two is given. */
export interface AccessRules {
  readonly authorize: ((request: Request) => Awaitable<boolean>) | undefined;
  readonly password: string | undefined;
}

const DAY_MS = 86_400_000;
/** How long a log-in lasts. */
export const SESSION_MS = DAY_MS / 2;
const COOKIE = "pusher_console";
/** How long a browser that has logged in is known: it has tries of its own then. */
const KNOWN_MS = 90 * DAY_MS;
const KNOWN_COOKIE = "pusher_console_known";

/** Judges requests. */
export class Access {
  readonly #rules: AccessRules;
  readonly #clock: Clock;
  readonly #tries: Tries;
  /** Signs the cookies; made when it is needed, as that takes long on purpose. */
  #key: string | undefined;

  /** @param trustsProxy See {@linkcode Inspection.trustsProxy}. */
  constructor(rules: AccessRules, clock: Clock, trustsProxy: boolean) {
    this.#rules = rules;
    this.#clock = clock;
    this.#tries = new Tries(clock, trustsProxy);
  }

  /** Whether a password opens the console. */
  get takesPassword(): boolean {
    return this.#rules.password !== undefined;
  }

  /** Decides about a request; null if it may come in. */
  async judge(request: Request, info: Info): Promise<Denial | null> {
    const { authorize, password } = this.#rules;
    if (password !== undefined) return this.#judgeCookie(request);
    if (authorize === undefined) return judgePlace(request, info);
    try {
      if (await authorize(request) === true) return null;
    } catch (error) {
      console.error("Pusher: failed while authorizing the console:", error);
      return { status: 500, error: "`authorize` of the console has failed" };
    }
    const error = "`authorize` of the console does not let this request in";
    return { status: 403, error };
  }

  #judgeCookie({ headers }: Request): Denial | null {
    const value = cookieOf(headers, COOKIE);
    if (value !== undefined && this.#isSigned("console", value)) return null;
    return {
      status: 401,
      error: "The console asks for its password",
      takesPassword: true,
    };
  }

  /**
   * Takes a try at the password.
   *
   * @returns The headers that set cookies, or why there are none.
   */
  logIn(
    request: Request,
    info: Info,
    given: unknown,
  ): readonly string[] | Denial {
    const { password } = this.#rules;
    if (password === undefined) {
      return { status: 403, error: "The console has no password" };
    }
    const browser = this.#browserOf(request);
    const waitS = this.#tries.take(request, info, browser);
    if (waitS > 0) {
      const error = "There were too many tries at the password: wait a minute";
      return { status: 429, error, takesPassword: true, retryAfterS: waitS };
    }
    const isRight = typeof given === "string" && given.isWellFormed() &&
      // Digests: the time must not tell how long the password is.
      equalsInConstantTime(hmac(COOKIE, password), hmac(COOKIE, given));
    if (!isRight) {
      const error = "This is not the console's password";
      return { status: 401, error, takesPassword: true };
    }
    const now = this.#clock.now();
    const session = this.#sign("console", `${now + SESSION_MS}`);
    const id = browser ?? crypto.randomUUID();
    const known = this.#sign("known", `${now + KNOWN_MS}.${id}`);
    return [
      cookie(request, COOKIE, session, SESSION_MS),
      cookie(request, KNOWN_COOKIE, known, KNOWN_MS),
    ];
  }

  /** The browser that sends a request, if it has logged in before. */
  #browserOf({ headers }: Request): string | undefined {
    const value = cookieOf(headers, KNOWN_COOKIE);
    if (value === undefined || !this.#isSigned("known", value)) return;
    return value.split(".")[1];
  }

  /** The header that removes the cookie of the log-in. */
  logOut(request: Request): string {
    return cookie(request, COOKIE, "", 0);
  }

  /** Whether a value was signed for a purpose, and is still good. */
  #isSigned(purpose: Purpose, value: string): boolean {
    const [, text = "", expires = ""] = SIGNED.exec(value) ?? [];
    if (!(Number(expires) > this.#clock.now())) return false;
    return equalsInConstantTime(this.#sign(purpose, text), value);
  }

  /**
   * Signs a text that begins with the time at which it expires. The key comes from
   * the password, so that each server behind one address takes the cookies of the
   * others. It is slow to make: nobody tries passwords by it.
   */
  #sign(purpose: Purpose, text: string): string {
    this.#key ??= scryptSync(this.#rules.password ?? "", SALT, 32)
      .toString("hex");
    return `${text}.${hmac(this.#key, `${purpose}:${text}`)}`;
  }
}

/** What a signature is for: a log-in, or a browser that has logged in. */
type Purpose = "console" | "known";

const SIGNED = /^((\d{1,16})(?:\.[0-9a-f-]{36})?)\.[0-9a-f]{64}$/;

const SALT = "@glitz/pusher/console";

function cookieOf(headers: Headers, wanted: string): string | undefined {
  for (const part of headers.get("cookie")?.split(";") ?? []) {
    const [name, value] = part.trim().split("=", 2);
    if (name === wanted) return value;
  }
}

function cookie(
  request: Request,
  name: string,
  value: string,
  ageMs: number,
): string {
  const { url, headers } = request;
  // A claim that the request came over TLS only makes the cookie stricter.
  const isSecure = url.startsWith("https:") ||
    headers.get("x-forwarded-proto")?.startsWith("https");
  const age = Math.floor(ageMs / 1000);
  // It reads "/console/api/…": the cookie is for the console alone.
  const path = (URL.parse(url)?.pathname ?? "/").replace(/api\/\w+$/, "");
  return `${name}=${value}; Path=${path}; Max-Age=${age}; HttpOnly; ` +
    `SameSite=Strict${isSecure ? "; Secure" : ""}`;
}

// ---- This machine -----------------------------------------------------------

const REMEDY = "Give the console a `password` or `authorize`";

/** Lets in a browser on this machine, and nobody else. */
function judgePlace(request: Request, info: Info): Denial | null {
  const place = placeOf(request, info);
  const why = whyNot(place);
  return why === null ? null : {
    status: 403,
    error: `The console is for this machine only, and ${why}. ${REMEDY}`,
  };
}

function whyNot(place: Place): string | null {
  switch (place.kind) {
    case "here":
      return null;
    case "unknown":
      return "the handler was not given where the request comes from";
    case "forwarded":
      return `a proxy sent the request, as its header ${place.header} shows`;
    case "renamed":
      return "the request names a host that is not localhost";
    // No browser uses the socket of a file: a proxy does.
    case "file":
    case "private":
    case "elsewhere":
      return "the request comes from another one";
  }
}

// ---- Other pages ------------------------------------------------------------

const isOwn = compileOrigins();

/**
 * Whether a request comes from the console's own page or from no page: another page
 * must not act in the name of its visitor.
 */
export function isFromOwnPage(request: Request): boolean {
  // No page can set it, and it is right even where a proxy names another host.
  const site = request.headers.get("sec-fetch-site");
  if (site !== null) return site === "same-origin" || site === "none";
  return isOwn(request) === "own";
}
