/**
 * Checks of requests to the auth endpoints: the form that a client posts, the app
 * that it is for, and what the program answers.
 *
 * @module
 */

import { parseFields } from "./forms.ts";
import { type BodyRules, readBody, refuseBody } from "./bodies.ts";
import { isRefusal, type Limits, overLimit, quote, Refusal } from "./limits.ts";
import {
  isObject,
  isSocketId,
  type NamedChannel,
  REFUSAL,
} from "./protocol.ts";
import { type Awaitable, type Clock, deferred } from "./time.ts";
import { encodeMember, encodeUser } from "./validation.ts";

// ---- Forms ------------------------------------------------------------------

/** What a client has posted to an auth endpoint. */
export interface AuthForm<App> {
  readonly request: Request;
  readonly app: App;
  readonly socketId: string;
  readonly params: URLSearchParams;
}

/** Where the app of a form is looked up. */
export interface AuthApps<App> extends BodyRules {
  readonly appsById: ReadonlyMap<string, App>;
  readonly appsByKey: ReadonlyMap<string, App>;
  readonly connections: ReadonlyMap<string, { readonly app: App }>;
  readonly defaultApp: App;
}

// A form with a socket id and as many channel names as a connection may have.
const AUTH_BODY_BYTES = 65_536;

/** Reads the form that clients post to the auth endpoints, or refuses it. */
export async function readAuthForm<App extends object>(
  apps: AuthApps<App>,
  request: Request,
  appName: string | undefined,
): Promise<AuthForm<App> | Refusal> {
  if (request.method !== "POST") return REFUSAL.PostOnly;
  const body = await readBody(request, AUTH_BODY_BYTES, apps);
  if (body === "too large") return REFUSAL.AuthBodyTooLarge;
  if (typeof body === "string") return refuseBody(body, apps);
  const params = await parseFields(body, request.headers.get("content-type"));
  if (isRefusal(params)) return params;
  const socketId = params.get("socket_id");
  if (!isSocketId(socketId)) return REFUSAL.BadAuthForm;
  const app = findAuthApp(apps, socketId, params, appName);
  return isRefusal(app) ? app : { request, app, socketId, params };
}

/** The app that a client names by its key or id. */
export function findApp<App>(
  { appsByKey, appsById }: AuthApps<App>,
  name: string,
): App | undefined {
  return appsByKey.get(name) ?? appsById.get(name);
}

/** Refuses a request that names an app which the server does not have. */
export function unknownApp(name: string): Refusal {
  return new Refusal(404, `No app has the key or id ${quote(name)}`);
}

/** The app whose secret signs: the app that is named, else that of the socket. */
function findAuthApp<App>(
  apps: AuthApps<App>,
  socketId: string,
  params: URLSearchParams,
  appName: string | undefined,
): App | Refusal {
  const name = appName ?? params.get("app_key") ?? params.get("app_id");
  if (name !== null) return findApp(apps, name) ?? unknownApp(name);
  const { appsById, connections, defaultApp } = apps;
  // Behind a load balancer the socket may belong to another server.
  const app = connections.get(socketId)?.app ??
    (appsById.size === 1 ? defaultApp : undefined);
  return app ?? REFUSAL.UnknownSocket;
}

/**
 * The channel that a form names as `channel_name`, or the list of those that it
 * names as `channel_name[]`.
 */
export function parseAuthChannels(
  params: URLSearchParams,
  limits: Limits,
): string | string[] | Refusal {
  const several = params.getAll("channel_name[]");
  const single = params.get("channel_name");
  if (single !== null) return single;
  if (several.length === 0) return REFUSAL.BadAuthForm;
  if (several.length <= limits.channelsPerConnection) return several;
  const found = `The form names ${several.length} channels`;
  return overLimit("channelsPerConnection", limits, found);
}

// ---- Answers of the program -------------------------------------------------

/** How long answers of the program are waited for. */
export interface AnswerRules {
  readonly clock: Clock;
  /** In milliseconds. */
  readonly answerTimeoutMs: number;
  /** Aborts when the server has closed. */
  readonly ended: AbortSignal;
}

/** The time that the program has to answer one request. */
export class AnswerTime {
  readonly #controller = new AbortController();
  readonly #over = deferred<Refusal>();
  readonly #release: () => void;

  /** @param onLate Called when the program has not answered in time. */
  constructor(
    { clock, answerTimeoutMs, ended }: AnswerRules,
    onLate: (error: Error) => void,
  ) {
    const cancel = clock.after(answerTimeoutMs, () => {
      const error =
        `The program has not answered in time: answerTimeoutMs is ${answerTimeoutMs}`;
      this.#abort(REFUSAL.LateAnswer, "TimeoutError");
      onLate(new Error(error));
    });
    const end = () => this.#abort(REFUSAL.ShuttingDown, "AbortError");
    if (ended.aborted) end();
    else ended.addEventListener("abort", end);
    this.#release = () => {
      cancel();
      ended.removeEventListener("abort", end);
    };
  }

  /** Aborts when the time is over. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  #abort(refusal: Refusal, reason: string): void {
    this.#over.resolve(refusal);
    this.#controller.abort(new DOMException(refusal.error, reason));
  }

  /** Waits for an answer; a refusal if it does not come in time. */
  wait<T>(answer: Awaitable<T>): Promise<T | Refusal> {
    return Promise.race([answer, this.#over.promise]);
  }

  /** Waits for nothing any more. */
  end(): void {
    this.#release();
  }
}

/**
 * The member who may join a channel, by what `authorize` has returned, as JSON text;
 * undefined where nobody is named.
 *
 * @param acceptsUsers Whether users sign in: they may join a presence channel
 * without a member.
 * @throws {TypeError} If it is neither a decision nor a member.
 */
export function checkDecision(
  decision: unknown,
  { name, kind }: NamedChannel,
  acceptsUsers: boolean,
  limits: Limits,
): string | Refusal | undefined {
  if (decision === true && (!kind.presence || acceptsUsers)) return undefined;
  // Only `true` or a member permits: a function that forgot to return does not.
  if (decision !== true && !isObject(decision)) {
    return refuseMistake(`Joining ${quote(name)} is not allowed`, decision, {
      source: "authorize",
      rule: kind.presence ? "only a member permits" : "only true permits",
    });
  }
  if (decision === true) {
    throw new TypeError(
      `Cannot authorize "${name}": authorize returned true, and on a presence channel must return the member who joins, such as { user_id: "1" }, unless users sign in by authenticate`,
    );
  }
  const member = encodeMember(decision, limits);
  if (isRefusal(member)) {
    throw new TypeError(
      `Cannot authorize "${name}": authorize returned a member that is not valid: ${member.error}`,
    );
  }
  return kind.presence ? member : undefined;
}

/**
 * The user that `authenticate` has returned, as JSON text.
 *
 * @throws {TypeError} If it is an object and no user.
 */
export function checkAuthenticated(
  user: unknown,
  limits: Limits,
): string | Refusal {
  // As with `authorize`, only a clear answer counts.
  if (!isObject(user)) {
    return refuseMistake("The request is not that of a user", user, {
      source: "authenticate",
      rule: 'only a user such as { id: "1" } signs in',
    });
  }
  const checked = encodeUser(user, limits);
  if (isRefusal(checked)) {
    throw new TypeError(
      `Cannot authenticate: authenticate returned a user that is not valid: ${checked.error}`,
    );
  }
  return checked;
}

/** Refuses a client. Where the program has hardly meant to, the text says why. */
function refuseMistake(
  error: string,
  answer: unknown,
  { source, rule }: { readonly source: string; readonly rule: string },
): Refusal {
  if (answer === false || answer === null) return new Refusal(403, error);
  // What the program returned may be a secret; its type is none.
  const found = answer === undefined || answer === true
    ? String(answer)
    : `a ${typeof answer}`;
  return new Refusal(403, `${error}: ${source} returned ${found}, and ${rule}`);
}
