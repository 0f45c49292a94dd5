/**
 * The options of a test, and what they are by default.
 *
 * @module
 */

import {
  checkDuration,
  checkFunction,
  checkText,
  copyOptions,
  type Field,
  having,
  matching,
  objectOf,
} from "../../core/checks.ts";
import type { Handler, Pusher } from "../../mod.ts";

/**
 * Options of {@linkcode testPusher}.
 *
 * @typeParam Tested The server.
 */
export interface TestOptions<Tested = Pusher> {
  /**
   * The handler of the program, as it is passed to `Deno.serve`. All clients and
   * requests come through it. @default {`pusher.handler`}
   */
  handler?: Handler | undefined;
  /**
   * Makes the handler of the program, in place of `handler`: for programs that take
   * their server as an argument. So each test has a server of its own, with a clock
   * that it turns.
   */
  program?: ((pusher: Tested) => Handler) | undefined;
  /** Where clients find the program. @default {"http://localhost"} */
  origin?: string | undefined;
  /**
   * How long an expected event may take, in milliseconds of real time.
   * @default {2000}
   */
  deadlineMs?: number | undefined;
  /**
   * Where clients ask for permission to subscribe.
   * @default {`${pusher.path}/pusher/auth`}
   */
  authEndpoint?: string | undefined;
  /**
   * Where clients ask who they are. @default {`${pusher.path}/pusher/user-auth`}
   */
  userAuthEndpoint?: string | undefined;
}

/** How a client of a test connects. */
export interface TestConnectOptions {
  /**
   * Headers of all its requests, such as `cookie`, `authorization` and `origin`.
   */
  headers?: HeadersInit | undefined;
  /** The app's key. @default {the key of the server} */
  key?: string | undefined;
}

export const SUBJECT = "Cannot test a Pusher";

const CHECKS = {
  handler: checkFunction,
  program: checkFunction,
  origin: matching(
    /^https?:\/\/[^\/?#]+$/,
    'be like "https://example.com", without a path',
  ),
  deadlineMs: checkDuration,
  authEndpoint: checkText,
  userAuthEndpoint: checkText,
};
const checkOptions = objectOf<TestOptions<never>>(CHECKS);
export const checkPusher = having(
  ["on", "open"],
  "be a Pusher, or its options",
);

/** What a test needs of a server: an instance, or the class. */
export type TestedPusher = Pick<
  Pusher,
  | "authenticateUser"
  | "authorizeChannel"
  | "clock"
  | "close"
  | "handler"
  | "on"
  | "path"
>;

/** Options, checked. */
export interface Settings {
  readonly handler: Handler;
  readonly origin: string;
  readonly path: string;
  readonly key: string;
  readonly deadlineMs: number;
  readonly authEndpoint: string;
  readonly userAuthEndpoint: string;
}

export function readSettings(
  pusher: TestedPusher,
  given: TestOptions<never>,
): Settings {
  const field: Field = { subject: SUBJECT, name: "" };
  // The keys of an object literal are known; the type of Object.keys is not.
  const names = Object.keys(CHECKS) as (keyof TestOptions<never>)[];
  const options = copyOptions(given, names);
  checkOptions(options, field);
  if (options.handler !== undefined && options.program !== undefined) {
    throw new TypeError(
      `${SUBJECT}: both \`handler\` and \`program\` are given; pass one of them`,
    );
  }
  const { path } = pusher;
  const {
    handler = makeHandler(pusher, options) ?? pusher.handler,
    origin = "http://localhost",
    deadlineMs = 2_000,
    authEndpoint = `${path}/pusher/auth`,
    userAuthEndpoint = `${path}/pusher/user-auth`,
  } = options;
  // Each signature names the key of the app.
  const { auth } = pusher.authorizeChannel("1.1", "private-key");
  const key = auth.slice(0, auth.indexOf(":"));
  const endpoints = { authEndpoint, userAuthEndpoint };
  return { handler, origin, path, key, deadlineMs, ...endpoints };
}

/** Has the program make its handler. */
function makeHandler(
  pusher: TestedPusher,
  { program }: TestOptions<never>,
): Handler | undefined {
  if (program === undefined) return;
  // The overloads of testPusher have checked that the program takes this server.
  const made = program(pusher as never);
  checkFunction(made, { subject: SUBJECT, name: "the result of program" });
  return made;
}
