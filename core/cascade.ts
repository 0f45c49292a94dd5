/**
 * One handler out of several.
 *
 * @module
 */

import { notFound } from "./http.ts";
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
  return async (request, info) => {
    // A cascade inside another leaves the last resort to the outer cascade.
    if (served.has(request)) {
      return await firstAnswer(handlers, request, info) ?? notFound();
    }
    served.set(request, null);
    try {
      const answer = await firstAnswer(handlers, request, info);
      const serve = served.get(request);
      if (!serve || (answer !== null && isMeant(answer, serve))) {
        return answer ?? notFound();
      }
      discard(answer);
      return await serve();
    } finally {
      served.delete(request);
    }
  };
}

/** The first answer that is meant for a request, else the last; null for none. */
async function firstAnswer(
  handlers: readonly Handler[],
  request: Request,
  info: Deno.ServeHandlerInfo | undefined,
): Promise<Response | null> {
  let last: Response | null = null;
  for (const handler of handlers) {
    const answer = await handler(request, info);
    if (answer === null || answer === undefined) continue;
    discard(last);
    last = answer;
    if (isMeant(answer, served.get(request))) break;
  }
  return last;
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
