/**
 * Who may see the console: whoever the program says, whoever knows the password, or,
 * without either, whoever sits at the machine.
 *
 * @module
 */

import { scryptSync } from "node:crypto";
import { compileOrigins } from "../../core/http.ts";
import { equalsInConstantTime, hmac } from "../../core/signatures.ts";
import { type Awaitable, type Clock, TokenBucket } from "../../core/time.ts";
import { type Info, type Place, placeOf } from "../shared/places.ts";

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

// A person mistypes a password a few times. A program that guesses gets nowhere with
// so few tries, from whatever number of addresses.
const TRIES = 5;
const TRIES_PER_S = 5 / 60;
const ALL_TRIES = 100;
const ALL_TRIES_PER_S = 100 / 60;
/** Addresses whose tries are counted one by one; the oldest goes first. */
const MAX_ADDRESSES = 1_000;

/** Judges requests. */
export class Access {
  readonly #rules: AccessRules;
  readonly #clock: Clock;
  readonly #tries = new Map<string, TokenBucket>();
  readonly #allTries: TokenBucket;
  /** Signs the cookies; made when it is needed, as that takes long on purpose. */
  #key: string | undefined;

  constructor(rules: AccessRules, clock: Clock) {
    this.#rules = rules;
    this.#clock = clock;
    this.#allTries = new TokenBucket(ALL_TRIES, clock.elapsed());
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
    const value = cookieOf(headers.get("cookie") ?? "");
    if (value !== undefined && this.#isValid(value)) return null;
    return {
      status: 401,
      error: "The console asks for its password",
      takesPassword: true,
    };
  }

  /**
   * Takes a try at the password.
   *
   * @returns The header that sets the cookie, or why there is none.
   */
  logIn(request: Request, info: Info, given: unknown): string | Denial {
    const { password } = this.#rules;
    if (password === undefined) {
      return { status: 403, error: "The console has no password" };
    }
    const waitS = this.#take(addressOf(info));
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
    const expires = String(this.#clock.now() + SESSION_MS);
    return cookie(request, `${expires}.${this.#sign(expires)}`, SESSION_MS);
  }

  /** The header that removes the cookie. */
  logOut(request: Request): string {
    return cookie(request, "", 0);
  }

  /** Takes one try of an address; returns the seconds until it has another. */
  #take(address: string): number {
    const elapsed = this.#clock.elapsed();
    const own = this.#tries.get(address) ?? new TokenBucket(TRIES, elapsed);
    this.#tries.delete(address);
    this.#tries.set(address, own);
    if (this.#tries.size > MAX_ADDRESSES) {
      const [oldest] = this.#tries.keys();
      this.#tries.delete(oldest ?? "");
    }
    if (!own.take(elapsed, TRIES, TRIES_PER_S)) {
      return Math.ceil(1 / TRIES_PER_S);
    }
    return this.#allTries.take(elapsed, ALL_TRIES, ALL_TRIES_PER_S) ? 0 : 1;
  }

  #isValid(value: string): boolean {
    const [, expires, signature] = /^(\d{1,16})\.([0-9a-f]{64})$/.exec(value) ??
      [];
    if (expires === undefined || signature === undefined) return false;
    if (Number(expires) <= this.#clock.now()) return false;
    return equalsInConstantTime(this.#sign(expires), signature);
  }

  /**
   * The key comes from the password, so that each server behind one address takes
   * the cookies of the others. It is slow to make: nobody tries passwords by it.
   */
  #sign(expires: string): string {
    this.#key ??= scryptSync(this.#rules.password ?? "", SALT, 32)
      .toString("hex");
    return hmac(this.#key, `console:${expires}`);
  }
}

const SALT = "@glitz/pusher/console";

function cookieOf(header: string): string | undefined {
  for (const part of header.split(";")) {
    const [name, value] = part.trim().split("=", 2);
    if (name === COOKIE) return value;
  }
}

function cookie(request: Request, value: string, ageMs: number): string {
  const { url, headers } = request;
  // A claim that the request came over TLS only makes the cookie stricter.
  const isSecure = url.startsWith("https:") ||
    headers.get("x-forwarded-proto")?.startsWith("https");
  const age = Math.floor(ageMs / 1000);
  // It reads "/console/api/…": the cookie is for the console alone.
  const path = (URL.parse(url)?.pathname ?? "/").replace(/api\/\w+$/, "");
  return `${COOKIE}=${value}; Path=${path}; Max-Age=${age}; HttpOnly; ` +
    `SameSite=Strict${isSecure ? "; Secure" : ""}`;
}

function addressOf(info: Info): string {
  const address = info?.remoteAddr;
  return address && "hostname" in address ? address.hostname : "";
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
