/**
 * The debug console: a page that shows what the server does. Who is connected and with
 * which client, the channels and their members, the stream of events, what was refused
 * and why, and how much goes in and out. From it you trigger events, and disconnect
 * connections and users.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { debugConsole } from "@glitz/pusher/console";
 *
 * const pusher = new Pusher();
 * Deno.serve(pusher.cascade(pusher.handler, debugConsole(pusher), app));
 * // Then open http://localhost:8000/console
 * ```
 *
 * Who may see it:
 * - Without an option only a browser on the machine that the server runs on: the
 *   request comes from a loopback address, names `localhost`, and no proxy has sent
 *   it. A proxy on the same machine that adds no header looks like that, too: behind
 *   one always give a password, or `authorize`.
 * - With {@linkcode ConsoleOptions.password} whoever knows it. A log-in lasts for 12
 *   hours, on all servers with the same password. An address may try five passwords,
 *   and then one each 12 seconds; all addresses together may try 100 a minute. A
 *   browser that has logged in before has tries of its own: strangers cannot use them.
 * - With {@linkcode ConsoleOptions.authorize} whoever your program lets in.
 *
 * What it shows:
 * - All servers that share a backplane with an intercom, such as Redis: each
 *   connection, event and problem says which server it belongs to, and can be
 *   disconnected from any console. Servers answer that have a console, too.
 * - The first 2,048 characters of an event's data. Of encrypted channels it shows no
 *   data, and no secret, signature or recovery session of anything.
 * - Names and data as text, whatever is in them.
 *
 * What it costs: nothing worth counting while no page is open, besides the last hundred
 * different problems. A page gets its figures once a second, and up to 40 events twice
 * a second; it counts the others. Long lists are sent a page at a time. Servers tell
 * each other figures and events while a page is open, within the same bounds.
 *
 * The page needs nothing from elsewhere: it is in the package, with Preact, and a strict
 * content security policy.
 *
 * @module
 */

import {
  checkFunction,
  checkLimit,
  checkPath,
  copyOptions,
  failSecret,
  type Field,
  having,
  objectOf,
} from "../core/checks.ts";
import { type Awaitable, Pusher } from "../mod.ts";
import { Console } from "./console/server.ts";

// ---- Public types -----------------------------------------------------------

/** The server: a {@linkcode Pusher}, or the class for its default instance. */
export type ConsoleServer =
  & Pick<
    Pusher,
    | ("path" | "clock" | "inspect" | "meter" | "stats" | "on")
    | ("channels" | "channel" | "users" | "terminateUserConnections")
  >
  & {
    /** See {@linkcode Pusher.trigger}, whatever its events are. */
    trigger(channel: never, event: never, data: never): Promise<unknown>;
    /** See {@linkcode Pusher.app}; the class has one app. */
    app?(id: string): unknown;
  };

/** Options of {@linkcode debugConsole}. */
export interface ConsoleOptions {
  /** Where the page is. @default {`${pusher.path}/console`} */
  path?: string | undefined;
  /**
   * Whether the sender of a request may see and do everything in the console: only
   * `true` lets it in. It is asked for each request of the page, about every two
   * seconds, and again for a stream that lasts longer than ten minutes.
   */
  authorize?: ((request: Request) => Awaitable<boolean>) | undefined;
  /** The password, of 12 characters at least; in place of `authorize`. */
  password?: string | undefined;
  /** How many pages may be open at once. @default {10} */
  pages?: number | undefined;
}

/** A console: a handler for a cascade. */
export interface DebugConsole {
  /** Serves the console, and answers 404 to all other requests. */
  (request: Request, info?: Deno.ServeHandlerInfo): Promise<Response>;
  /** How many pages are open. */
  readonly pages: number;
  /** Ends all pages and stops listening. The server's own end does the same. */
  close(): void;
  /** Does the same. */
  [Symbol.dispose](): void;
}

/**
 * Makes a console of a server, or of one app: `debugConsole(pusher.app("shop"))`.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { debugConsole } from "@glitz/pusher/console";
 * import { assertEquals } from "@std/assert";
 *
 * await using pusher = new Pusher();
 * const authorize = (request: Request) =>
 *   request.headers.get("cookie") === "role=admin";
 * const handler = pusher.cascade(
 *   pusher.handler,
 *   debugConsole(pusher, { authorize }),
 * );
 * const url = "http://localhost/console/";
 * const headers = { cookie: "role=admin" };
 * assertEquals((await handler(new Request(url))).status, 403);
 * assertEquals((await handler(new Request(url, { headers }))).status, 200);
 * ```
 *
 * @param pusher The server; by default the default instance.
 * @param options See {@linkcode ConsoleOptions}; checked at once.
 * @returns A handler that uses the `info` of `Deno.serve`: without it, and without an
 * option, it lets nobody in.
 * @throws {TypeError} If an option is unknown or of the wrong type, or the password is
 * too short, or both `password` and `authorize` are given.
 */
export function debugConsole(
  pusher: ConsoleServer = Pusher,
  options: ConsoleOptions = {},
): DebugConsole {
  checkPusher(pusher, { subject: SUBJECT, name: "pusher" });
  const settings = copyOptions(options, Object.keys(OPTIONS) as OptionName[]);
  checkOptions(settings, { subject: SUBJECT, name: "" });
  const { authorize, password, pages = DEFAULT_PAGES } = settings;
  const { path = `${pusher.path}/console` } = settings;
  // Names and data are checked at run time, whatever the events are.
  const untyped = pusher as unknown as Pusher;
  const served = new Console(untyped, { path, authorize, password, pages });
  const handler = (request: Request, info?: Deno.ServeHandlerInfo) =>
    served.handle(request, info);
  const close = () => served.close();
  return Object.defineProperty(
    Object.assign(handler, { close, [Symbol.dispose]: close }),
    "pages",
    { get: () => served.pages },
    // `pages` has just been defined.
  ) as unknown as DebugConsole;
}

// ---- Options ----------------------------------------------------------------

const SUBJECT = "Cannot create a debug console";
const MIN_PASSWORD = 12;
const DEFAULT_PAGES = 10;

type OptionName = keyof ConsoleOptions;

const OPTIONS = {
  path: checkPath,
  authorize: checkFunction,
  password: checkPassword,
  pages: checkLimit,
};

const checkFields = objectOf<Required<ConsoleOptions>>(OPTIONS);

const checkPusher = having(
  ["inspect", "stats", "on", "trigger", "channels"],
  "be a Pusher",
);

function checkOptions(options: ConsoleOptions, field: Field): void {
  checkFields(options, field);
  const { authorize, password } = options;
  if (authorize === undefined || password === undefined) return;
  throw new TypeError(
    `${SUBJECT}: both \`authorize\` and \`password\` are given, and one of them must decide`,
  );
}

function checkPassword(value: unknown, field: Field): void {
  const isLong = typeof value === "string" && value.length >= MIN_PASSWORD;
  if (isLong && value.isWellFormed()) return;
  failSecret(value, field, `have ${MIN_PASSWORD} characters at least`);
}
