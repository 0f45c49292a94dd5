/**
 * Metrics for Prometheus, and health checks for load balancers.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { health, metrics } from "@glitz/pusher/metrics";
 *
 * const pusher = new Pusher();
 * const app = () => new Response("my own program");
 * Deno.serve(pusher.cascade(
 *   pusher.handler,
 *   metrics(pusher, { from: "private" }), // GET /metrics
 *   health(pusher), // GET /healthz and /readyz
 *   app,
 * ));
 * ```
 *
 * `docs/metrics.md` lists the metrics, and beside it are a dashboard for Grafana and
 * alert rules.
 *
 * Who may read them:
 * - Without an option only this machine: the request comes from a loopback address,
 *   names `localhost` or such an address, and no header says that a proxy has sent it.
 * - With `from: "private"` also machines of private networks, as where Prometheus runs
 *   in the same cluster. Requests that a proxy has forwarded are refused there, too.
 *   A proxy that adds no header cannot be told from a machine: where one stands in
 *   front, do not let it pass the path on, or give a token.
 * - With {@linkcode MetricsOptions.token}, whoever sends it: `authorization` in the
 *   settings of Prometheus.
 * - With {@linkcode MetricsOptions.authorize}, whoever your program lets in.
 *
 * What is promised:
 * - Each server exports its own figures. Figures of connections, subscriptions and
 *   messages can be summed over servers; channels and members cannot, as several
 *   servers may have the same.
 * - The series are bounded. Labels are ids of apps that the options name, and words from
 *   closed lists: never the name of a channel, an event or a user, nor what a client says
 *   of itself. With more than 100 apps all have one label, `app=""`.
 * - What goes up and down is counted when somebody asks, so it cannot drift: when the
 *   clients have gone, every gauge is back at 0.
 *
 * What it costs: an answer visits each connection and each channel once, and several who
 * ask at once share it. In between it costs a few microseconds for each connection,
 * publish and request, and nothing for each message to a client. From the first answer on
 * a timer runs twice a second, until {@linkcode Metrics.close}, or until nobody has asked
 * for five minutes.
 *
 * The library is `prom-client`, which most programs of Node use. OpenTelemetry was tried,
 * too. What Deno exports natively with `OTEL_DENO=true` is sent to a collector only, and
 * must be chosen before the program starts: nothing answers a scrape. Its exporter for
 * Prometheus is six packages of 11.6 MB in place of four of 3 MB, takes 2.2 µs for a
 * count in place of 0.6 µs, and adds labels that nobody asked for. A collector of
 * OpenTelemetry reads these metrics with its receiver `prometheus`.
 *
 * @module
 */

import {
  type Check,
  checkFunction,
  copyOptions,
  fail,
  failSecret,
  type Field,
  having,
  listOf,
  objectOf,
  optionOf,
} from "../core/checks.ts";
import type { Awaitable } from "../mod.ts";
import { checkPusher, refusalOf, say } from "./metrics/access.ts";
import {
  Collector,
  type MeteredServer,
  type RunningWebhooks,
} from "./metrics/collector.ts";
import { type Definition, DEFINITIONS } from "./metrics/definitions.ts";
import { checkPath } from "./metrics/health.ts";

export type { MeteredServer, RunningWebhooks } from "./metrics/collector.ts";
export { health, type HealthOptions } from "./metrics/health.ts";

/** Options of {@linkcode metrics}. */
export interface MetricsOptions {
  /** Where the metrics are. @default {"/metrics"} */
  path?: string | undefined;
  /**
   * Who may read them without a token: this machine, or private networks, too.
   * @default {"loopback"}
   */
  from?: "loopback" | "private" | undefined;
  /**
   * Who knows it may read them, from anywhere: `authorization: Bearer …`. At least 16
   * characters without spaces.
   */
  token?: string | undefined;
  /** Decides who may read them, in place of the other options: only `true` permits. */
  authorize?:
    | ((
      request: Request,
      info: Deno.ServeHandlerInfo | undefined,
    ) => Awaitable<boolean>)
    | undefined;
  /** The running webhooks, whose queues are then reported, too. */
  webhooks?: readonly RunningWebhooks[] | undefined;
  /** Metrics of the program's own: a `Registry` of `prom-client`. They follow. */
  registry?: { metrics(): Awaitable<string> } | undefined;
  /** Labels of every metric, such as `{ region: "eu" }`. */
  labels?: Readonly<Record<string, string>> | undefined;
}

/** Metrics of a server: a handler for a cascade. */
export interface Metrics extends Disposable {
  /** Serves the metrics; null for any other path. */
  (request: Request, info?: Deno.ServeHandlerInfo): Promise<Response | null>;
  /** The metrics as text, for programs that serve them in another way. */
  text(): Promise<string>;
  /** Stops listening to the server, and the timer. */
  close(): void;
}

const OPTIONS: Field = Object.freeze({
  subject: "Cannot serve metrics",
  name: "",
});

const OPTION_CHECKS: Record<keyof MetricsOptions, Check> = {
  path: checkPath,
  from: (value, field) => {
    if (value === "loopback" || value === "private") return;
    fail(value, field, 'be "loopback" or "private"');
  },
  token: (value, field) => {
    if (typeof value === "string" && /^\S{16,}$/.test(value)) return;
    failSecret(value, field, "have at least 16 characters and no space");
  },
  authorize: checkFunction,
  webhooks: listOf(having(["status"], "be what webhooks() has returned")),
  registry: having(["metrics"], "be a Registry of prom-client"),
  labels: checkLabels,
};

const OPTION_NAMES = Object.keys(OPTION_CHECKS) as (keyof MetricsOptions)[];

const checkOptions = objectOf<MetricsOptions>(OPTION_CHECKS);

function checkLabels(value: unknown, field: Field): void {
  if (typeof value !== "object" || value === null) {
    fail(value, field, "be an object");
  }
  for (const [name, text] of Object.entries(value)) {
    const own = optionOf(field, name);
    if (typeof text !== "string") fail(text, own, "be a string");
    if (!/^[a-zA-Z]\w*$/.test(name) || OWN_LABELS.has(name)) {
      fail(
        text,
        own,
        "have a name of letters, digits and _, which no metric has",
      );
    }
  }
}

const OWN_LABELS: ReadonlySet<string> = new Set(
  Object.values<Definition>(DEFINITIONS).flatMap(({ labels = [] }) => labels),
).add("le");

/**
 * Serves the metrics of a server at a path.
 *
 * @example With a token, and metrics of the program's own
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { metrics } from "@glitz/pusher/metrics";
 * import { assert } from "@std/assert";
 *
 * const pusher = new Pusher();
 * using own = metrics(pusher, { token: "a-long-random-token" });
 * const handler = pusher.cascade(pusher.handler, own);
 *
 * const headers = { authorization: "Bearer a-long-random-token" };
 * const request = new Request("http://localhost/metrics", { headers });
 * const answer = await handler(request);
 * assert((await answer.text()).includes("pusher_backplane_up 1"));
 * ```
 *
 * @param pusher The server: all of its apps are reported. It may be the class `Pusher`,
 * for its default instance.
 * @param options See {@linkcode MetricsOptions}; checked at once.
 * @returns A handler, which needs the `info` of `Deno.serve` if it has neither `token`
 * nor `authorize`.
 * @throws {TypeError} If an option is unknown or of the wrong type.
 */
export function metrics(
  pusher: MeteredServer,
  options: MetricsOptions = {},
): Metrics {
  checkPusher(pusher, optionOf(OPTIONS, "pusher"));
  const own = copyOptions(options, OPTION_NAMES);
  checkOptions(own, OPTIONS);
  const { path = "/metrics", from = "loopback", token, authorize } = own;
  const { webhooks = [], registry, labels = {} } = own;
  const collector = new Collector(pusher, webhooks, labels);
  const text = async () => {
    const ours = await collector.text();
    return registry === undefined ? ours : ours + await registry.metrics();
  };
  const handler = async (request: Request, info?: Deno.ServeHandlerInfo) => {
    if (URL.parse(request.url)?.pathname !== path) return null;
    const access = { from, token, authorize };
    const refusal = await refusalOf(request, info, access);
    if (refusal !== null) return refusal;
    if (request.method !== "GET" && request.method !== "HEAD") {
      return say(405, "The metrics are there for GET\n", {
        allow: "GET, HEAD",
      });
    }
    return say(200, await text(), { "content-type": collector.contentType });
  };
  const close = () => collector.close();
  return Object.assign(handler, { text, close, [Symbol.dispose]: close });
}
