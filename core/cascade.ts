/**
 * One handler out of several.
 *
 * @module
 */

import { notFound } from "./http.ts";
import { quote } from "./limits.ts";
import type { Awaitable } from "./time.ts";

/** A request handler; `undefined` or `null` passes the request on. */
export type Handler = (
  request: Request,
  // deno-lint-ignore no-explicit-any -- handlers differ in what they ask of `info`, and it is only passed on
  info: any,
) => Awaitable<Response | null | undefined>;

/** Serves a request that no other handler of its cascade serves. */
type LastResort = () => Awaitable<Response>;

/** The requests that a cascade is serving, with the last resort of some. */
const served = new WeakMap<Request, LastResort | null>();

/** Answers with 404 that say more than those of other handlers. */
const telling = new WeakSet<Response>();

/** Makes an answer with 404 that of its cascade, if no handler serves the request. */
export function preferred(answer: Response): Response {
  telling.add(answer);
  return answer;
}

/**
 * Serves a socket whose app key nobody has. In a cascade the other handlers are
 * asked first: the key may be another server's, or the path the program's own.
 */
export function serveAtLast(
  request: Request,
  serve: LastResort,
): Awaitable<Response> {
  const found = served.get(request);
  if (found === undefined) return serve();
  if (found === null) served.set(request, serve);
  return notFound();
}

/** See `Pusher.cascade`. */
export function cascade(
  handlers: readonly Handler[],
): (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response> {
  for (const [i, handler] of handlers.entries()) checkHandler(handler, i + 1);
  return async (request, info) => {
    // A cascade inside another leaves the last resort to the outer cascade.
    const isOuter = !served.has(request);
    if (isOuter) served.set(request, null);
    try {
      let last: Response | null = null;
      let position = 0;
      for (const handler of handlers) {
        position++;
        const given = handler(request, info);
        // To await an answer that is there takes time.
        const answer = given instanceof Response ? given : await given;
        if (answer === null || answer === undefined) continue;
        checkAnswer(answer, position);
        if (last !== null && telling.has(last) && answer.status === 404) {
          discard(answer);
          continue;
        }
        discard(last);
        last = answer;
        if (isMeant(answer, served.get(request))) break;
      }
      const serve = isOuter ? served.get(request) : null;
      if (!serve || (last !== null && isMeant(last, serve))) {
        return last ?? notFound();
      }
      discard(last);
      return await serve();
    } finally {
      if (isOuter) served.delete(request);
    }
  };
}

/**
 * Whether an answer ends the search. A page is no answer to a socket with an
 * unknown key, even if the program has one for every path.
 */
function isMeant(
  { status }: Response,
  lastResort: LastResort | null | undefined,
): boolean {
  if (status === 404) return false;
  return !lastResort || status === 101 || status >= 400;
}

/**
 * Cancels the body of an answer that nobody gets: unread, it would keep its source
 * waiting. Whether that succeeds is up to the handler that made it.
 */
function discard(answer: Response | null): void {
  answer?.body?.cancel().catch(() => {});
}

// ---- Mistakes ---------------------------------------------------------------
// A program hands over anything that looks like its application. What it should
// hand over instead depends on what it is.

/** Throws for anything that cannot handle a request. */
function checkHandler(value: unknown, position: number): void {
  const fault = findFault(value);
  if (fault === null) return;
  throw new TypeError(`Cannot make a cascade: handler ${position} is ${fault}`);
}

/** What is wrong with a handler, and what to pass instead; null for a function. */
function findFault(value: unknown): string | null {
  if (value instanceof Response) {
    return "a Response, and must be a function that returns it";
  }
  if (value instanceof Promise) {
    return "a promise, and must be a function: await the promise first";
  }
  if (Array.isArray(value)) {
    return "an array, and must be a function: pass the handlers of the array as arguments, as in cascade(...handlers)";
  }
  if (isClass(value)) {
    // The members of a class are not read: that would make the default instance.
    const advice = "handler" in value ? `pass ${value.name}.handler` : RULE;
    return `the class ${value.name}, and must be a function: ${advice}`;
  }
  if (typeof value === "function") {
    return isNodeApplication(value)
      ? `an application for the HTTP server of Node, such as Express, and must be ${A_HANDLER}: give the application a port of its own`
      : null;
  }
  if (typeof value !== "object" || value === null) {
    return `${quote(value)}, and must be ${A_HANDLER}`;
  }
  return `an object, and must be a function: ${findAdvice(value)}`;
}

/** What to pass instead of an object. */
function findAdvice(value: object): string {
  if (hasMethod(value, "fetch")) {
    return "pass its fetch method, as in cascade(Pusher.handler, app.fetch)";
  }
  // A method without arguments makes the handler, as in Fresh.
  if (hasMethod(value, "handler") && value.handler.length < 2) {
    return value.handler.length === 0
      ? "pass what its handler method returns, as in cascade(Pusher.handler, app.handler())"
      : "pass its handler, as in cascade(pusher.handler, app.fetch)";
  }
  return isNodeApplication(value)
    ? "an application for the HTTP server of Node needs a port of its own"
    : RULE;
}

const A_HANDLER = "a function that takes a Request and returns a Response";

const RULE = `pass ${A_HANDLER}`;

/** Whether a value is a class, which cannot be called. */
function isClass(value: unknown): value is { readonly name: string } {
  return typeof value === "function" &&
    /^class\b/.test(Function.prototype.toString.call(value));
}

/** Whether a value has the methods of Express and its like. */
function isNodeApplication(value: object): boolean {
  return hasMethod(value, "use") && hasMethod(value, "listen") &&
    !hasMethod(value, "fetch");
}

function hasMethod<Name extends string>(
  value: object,
  name: Name,
  // deno-lint-ignore no-explicit-any -- a method that is only looked at
): value is Record<Name, (...args: any[]) => unknown> {
  return name in value && typeof Reflect.get(value, name) === "function";
}

/** Throws for an answer that the runtime would refuse without naming its handler. */
function checkAnswer(value: unknown, position: number): void {
  if (value instanceof Response) return;
  const { status, headers } = Object(value);
  // A program may have put a class of its own in the place of Response.
  if (typeof status === "number" && headers instanceof Headers) return;
  throw new TypeError(
    `Cannot answer a request: handler ${position} of the cascade returned ${
      quote(value)
    }, and must return a Response, or null to pass the request on`,
  );
}
