/**
 * The server side of the console: its routes, who may use them, and what they answer.
 *
 * @module
 */

import { readBody, refuseBody } from "../../core/bodies.ts";
import { decodeUtf8, notFound } from "../../core/http.ts";
import { onlooker } from "../../core/hooks.ts";
import { quote } from "../../core/limits.ts";
import { isObject, kindOf, parseJson } from "../../core/protocol.ts";
import { routePath } from "../../core/routes.ts";
import {
  type Awaitable,
  type Clock,
  SYSTEM_CLOCK,
  TokenBucket,
} from "../../core/time.ts";
import {
  BackplaneUnavailable,
  type ErrorEvent,
  type Pusher,
  type RefusedEvent,
} from "../../mod.ts";
import { Access, type AccessRules, isFromOwnPage } from "./access.ts";
import {
  denied,
  HEADERS,
  json,
  problem,
  redirectTo,
  serveHtml,
  servePart,
} from "./answers.ts";
import { Cluster } from "./cluster.ts";
import { Feed, KINDS } from "./feed.ts";
import { readFigures, Sampler } from "./figures.ts";
import {
  Answers,
  kindsOf,
  listChannels,
  pageOfChannels,
  readPageQuery,
} from "./lists.ts";
import { Problems } from "./problems.ts";
import { Streams } from "./streams.ts";
import { cut } from "./text.ts";

/** What was asked for. */
export interface ConsoleSettings extends AccessRules {
  /** Where the page is, without a slash at the end. */
  readonly path: string;
  /** How many pages may be open at once. */
  readonly pages: number;
}

/** No event of a usual size is larger, quoted in JSON. */
const BODY_BYTES = 262_144;
/** Room for a password: strangers may send it. */
const PUBLIC_BODY_BYTES = 4_096;
const BODY_TIMEOUT_MS = 10_000;
/** Requests of all pages together; a page makes about one a second. */
const REQUESTS_PER_S = 50;
/** Members that the details of a channel show. */
const SHOWN_MEMBERS = 200;

/** What an API route gets. */
interface Call {
  readonly request: Request;
  readonly query: URLSearchParams;
  /** The body of a POST. */
  readonly body: Record<string, unknown>;
}

/** The console of one server. */
export class Console {
  readonly #pusher: Pusher;
  readonly #settings: ConsoleSettings;
  readonly #clock: Clock;
  readonly #access: Access;
  readonly #cluster: Cluster;
  readonly #streams: Streams;
  readonly #answers: Answers;
  readonly #rate: TokenBucket;
  readonly #ended: AbortSignal;
  readonly #unlisten: (() => void)[];
  readonly #end = () => this.close();
  #isClosed = false;

  constructor(pusher: Pusher, settings: ConsoleSettings) {
    const clock = pusher.clock ?? SYSTEM_CLOCK;
    this.#pusher = pusher;
    this.#settings = settings;
    this.#clock = clock;
    const { node, ended, trustsProxy } = pusher.inspect();
    this.#access = new Access(settings, clock, trustsProxy);
    const problems = new Problems(node, clock);
    const feed = new Feed(pusher, node, clock);
    const answers = this.#answers = new Answers(clock);
    const figures = {
      clock,
      figures: () => readFigures(pusher),
      published: () => feed.published,
      problems: () => problems.version,
    };
    const cluster = this.#cluster = new Cluster({
      ...{ pusher, clock, feed, problems, figures, answers },
      events: (...given) => this.#streams.receive(...given),
      gone: (other) => this.#streams.forget(other),
    });
    const sampler = new Sampler(figures);
    const { peers } = cluster;
    this.#streams = new Streams({ node, feed, clock, sampler, peers });
    this.#rate = new TokenBucket(REQUESTS_PER_S, clock.elapsed());
    this.#unlisten = [
      pusher.on("refused", (event: RefusedEvent) => problems.refused(event)),
      pusher.on(
        "error",
        onlooker((event: ErrorEvent) => problems.failed(event)),
      ),
    ];
    this.#ended = ended;
    ended.addEventListener("abort", this.#end, { once: true });
  }

  get pages(): number {
    return this.#streams.size;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const unlisten of this.#unlisten) unlisten();
    this.#ended.removeEventListener("abort", this.#end);
    this.#streams.close();
    this.#cluster.close();
  }

  async handle(
    request: Request,
    info: Deno.ServeHandlerInfo | undefined,
  ): Promise<Response> {
    const { path } = this.#settings;
    const url = URL.parse(request.url);
    if (url === null || this.#isClosed) return notFound();
    if (url.pathname === path) return redirectTo(path);
    const route = routePath(url.pathname, path);
    if (route === null) return notFound();
    if (route.startsWith("/api/")) {
      return await this.#serveApi(request, info, url, route.slice(5));
    }
    if (!["/", "/console.js", "/console.css"].includes(route)) {
      return notFound();
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return problem(405, "The method is not GET", { allow: "GET, HEAD" });
    }
    if (route !== "/") return servePart(request, route.slice(1));
    const denial = await this.#access.judge(request, info);
    // The page itself asks for the password.
    const status = denial === null || denial.takesPassword
      ? 200
      : denial.status;
    return serveHtml(status, denial);
  }

  async #serveApi(
    request: Request,
    info: Deno.ServeHandlerInfo | undefined,
    url: URL,
    name: string,
  ): Promise<Response> {
    const route = Object.hasOwn(API, name) ? API[name] : undefined;
    if (route === undefined) return problem(404, "There is no such route");
    if (request.method !== route.method) {
      const allow = route.method;
      return problem(405, `The method is not ${allow}`, { allow });
    }
    if (!isFromOwnPage(request)) {
      return problem(
        403,
        "Only the console's own page may send this request. Behind a proxy that " +
          "changes the header Host, let it pass Host on",
      );
    }
    const denial = route.isPublic
      ? null
      : await this.#access.judge(request, info);
    if (denial !== null) return denied(denial);
    // Only now: strangers must not use up what operators need.
    if (!route.isPublic && !this.#isInTime()) {
      const error = `The console serves ${REQUESTS_PER_S} requests a second`;
      return problem(429, error, { "retry-after": "1" });
    }
    const maxBytes = route.isPublic ? PUBLIC_BODY_BYTES : BODY_BYTES;
    const body = route.method === "POST"
      ? await this.#readBody(request, maxBytes)
      : {};
    if (body instanceof Response) return body;
    try {
      const call = { request, query: url.searchParams, body };
      return await route.serve(this, call, info);
    } catch (error) {
      return this.#explain(error);
    }
  }

  #explain(error: unknown): Response {
    if (error instanceof TypeError || error instanceof RangeError) {
      return problem(400, error.message);
    }
    if (error instanceof BackplaneUnavailable) {
      return problem(503, error.message);
    }
    console.error("Pusher: failed while serving the console:", error);
    return problem(500, "The request has failed: the log says why");
  }

  #isInTime(): boolean {
    const elapsed = this.#clock.elapsed();
    return this.#rate.take(elapsed, REQUESTS_PER_S, REQUESTS_PER_S);
  }

  async #readBody(
    request: Request,
    maxBytes: number,
  ): Promise<Record<string, unknown> | Response> {
    // No form can send it, so no page elsewhere can without asking first.
    const type = request.headers.get("content-type") ?? "";
    if (!/^application\/json\b/i.test(type)) {
      return problem(415, "The content-type is not application/json");
    }
    const rules = {
      clock: this.#clock,
      bodyTimeoutMs: BODY_TIMEOUT_MS,
      ended: this.#ended,
    };
    const body = await readBody(request, maxBytes, rules);
    if (body === "too large") {
      return problem(413, `The body is larger than ${maxBytes} bytes`);
    }
    if (typeof body === "string") {
      const { status, error } = refuseBody(body, rules);
      return problem(status, error);
    }
    const fields = parseJson(decodeUtf8(body) ?? "");
    return isObject(fields) ? fields : problem(400, "The body is no object");
  }

  // ---- Looking

  session(): Response {
    const { node, isShared, apps } = this.#pusher.inspect();
    const { takesPassword } = this.#access;
    const kinds = Object.keys(KINDS);
    return json({ node, isShared, apps, kinds, takesPassword });
  }

  stream({ query }: Call): Response {
    const { pages } = this.#settings;
    if (this.pages >= pages) {
      const error = `No more pages may be open at once: \`pages\` is ${pages}`;
      return problem(429, error, { "retry-after": "5" });
    }
    return new Response(this.#streams.open(query), {
      headers: {
        ...HEADERS,
        "content-type": "text/event-stream",
        // nginx would hold the events back.
        "x-accel-buffering": "no",
      },
    });
  }

  async connections({ query }: Call): Promise<Response> {
    return json(await this.#cluster.connections(query));
  }

  async channels({ query }: Call): Promise<Response> {
    const app = this.#appOf(query.get("app"));
    const rows = await this.#answers.get(
      `channels ${app}`,
      () => listChannels(this.#view(app), app),
    );
    const page = readPageQuery(query);
    return json(pageOfChannels(rows, page, query.get("kind") ?? ""));
  }

  /** What is known of one channel: its members, and who is subscribed. */
  async channel({ query }: Call): Promise<Response> {
    const app = this.#appOf(query.get("app"));
    const name = query.get("name") ?? "";
    const view = this.#view(app);
    const { presence, cache, encrypted } = kindOf(name);
    const info = [
      "subscription_count",
      ...presence ? ["user_count"] : [],
      ...cache && !encrypted ? ["cache"] : [],
    ];
    const [counts, members, subscribers] = await Promise.all([
      view.channel(name, { info: info.join() }),
      presence ? view.users(name) : { users: [] },
      this.#cluster.subscribers(app, name),
    ]);
    return json({
      ...{ app, name, kinds: kindsOf(name), subscribers },
      subscriptions: counts.subscription_count,
      users: counts.user_count,
      members: members.users.slice(0, SHOWN_MEMBERS).map(({ id }) => cut(id)),
      cache: counts.cache &&
        { ...counts.cache, data: cut(counts.cache.data, 2_048) },
    });
  }

  async problems({ query }: Call): Promise<Response> {
    return json(await this.#cluster.problems(query.get("node") ?? ""));
  }

  // ---- Acting

  async trigger({ body }: Call): Promise<Response> {
    const { app, channel, event, data } = body;
    if (typeof channel !== "string" || typeof event !== "string") {
      return problem(400, "Triggering takes a channel and an event");
    }
    const text = typeof data === "string" ? data : JSON.stringify(data ?? null);
    // What is encrypted becomes JSON first; elsewhere a string is sent as it is.
    const given = kindOf(channel).encrypted ? parseJson(text) ?? text : text;
    await this.#view(this.#appOf(app)).trigger(channel, event, given);
    return json({ triggered: true });
  }

  async disconnect({ body }: Call): Promise<Response> {
    const { socketId, node, reconnects } = body;
    const outcome = await this.#cluster.disconnect({
      socketId: String(socketId),
      node: typeof node === "string" ? node : "",
      reconnects: reconnects === true,
    });
    if (outcome === "closed") return json({ closed: true });
    if (outcome === "unknown") {
      return problem(404, "No server has such a connection any more");
    }
    return problem(
      504,
      "The connection was not found, and a server does not " +
        "answer: perhaps it is there. Try again",
    );
  }

  async disconnectUser({ body: { app, userId } }: Call): Promise<Response> {
    const view = this.#view(this.#appOf(app));
    // It is checked there.
    await view.terminateUserConnections(userId as string);
    return json({ closed: true });
  }

  // ---- The password

  logIn({ request, body }: Call, info?: Deno.ServeHandlerInfo): Response {
    const result = this.#access.logIn(request, info, body.password);
    if ("error" in result) return denied(result);
    return json({ loggedIn: true }, result);
  }

  logOut({ request }: Call): Response {
    const cookie = this.#access.logOut(request);
    return json({ loggedIn: false }, [cookie]);
  }

  // ---- Apps

  /** An app by what the page says; by default the first. */
  #appOf(app: unknown): string {
    const { apps: [first = "", ...others] } = this.#pusher.inspect();
    if (app === undefined || app === null || app === "") return first;
    if (app === first || others.some((id) => id === app)) return String(app);
    throw new RangeError(`Cannot find app ${quote(app)}: no app has that id`);
  }

  /** The server as one app sees it. The default instance has one app only. */
  #view(app: string): Pusher {
    return this.#pusher.app?.(app) ?? this.#pusher;
  }
}

/** A route below `api/`. */
interface ApiRoute {
  readonly method: "GET" | "POST";
  /** Whether nobody needs to be let in before. */
  readonly isPublic?: boolean;
  serve(
    on: Console,
    call: Call,
    info?: Deno.ServeHandlerInfo,
  ): Awaitable<Response>;
}

const API: Readonly<Record<string, ApiRoute>> = Object.freeze({
  session: { method: "GET", serve: (on) => on.session() },
  stream: { method: "GET", serve: (on, call) => on.stream(call) },
  connections: { method: "GET", serve: (on, call) => on.connections(call) },
  channels: { method: "GET", serve: (on, call) => on.channels(call) },
  channel: { method: "GET", serve: (on, call) => on.channel(call) },
  problems: { method: "GET", serve: (on, call) => on.problems(call) },
  trigger: { method: "POST", serve: (on, call) => on.trigger(call) },
  disconnect: { method: "POST", serve: (on, call) => on.disconnect(call) },
  "disconnect-user": {
    method: "POST",
    serve: (on, call) => on.disconnectUser(call),
  },
  login: {
    method: "POST",
    isPublic: true,
    serve: (on, call, info) => on.logIn(call, info),
  },
  logout: {
    method: "POST",
    isPublic: true,
    serve: (on, call) => on.logOut(call),
  },
});
