/**
 * Collects the figures of a server: what is there when somebody asks, and what hooks
 * and measurements have told since the metrics were made.
 *
 * @module
 */

import { CLOSE } from "../../core/protocol.ts";
import type {
  AppCounts,
  AppFigures,
  Hooks,
  Measurement,
  Meter,
  Stats,
} from "../../mod.ts";
import type { MetricName } from "./definitions.ts";
import { Lag, processFigures } from "./process.ts";
import { type Labels, Values } from "./registry.ts";

/** A `Pusher`, or the class for its default instance, whatever its events are. */
export interface MeteredServer {
  /** See {@linkcode Pusher.meter}. */
  readonly meter: Meter;
  /** See {@linkcode Pusher.stats}. */
  stats(): Stats;
  /** See {@linkcode Pusher.on}. */
  on<Name extends keyof Hooks>(
    name: Name,
    listener: (event: Hooks[Name]) => unknown,
  ): () => void;
}

/** What `webhooks()` of `@glitz/pusher/webhooks` returns, as far as it is reported. */
export interface RunningWebhooks {
  /** Each endpoint, and how many events it has. */
  readonly status: readonly {
    /** The endpoint's URL, of which the host is reported. */
    readonly url: string;
    /** Events that wait. */
    readonly queued: number;
    /** Events that it has accepted. */
    readonly delivered: number;
    /** Events that were dropped before they were sent. */
    readonly dropped: number;
    /** Events that were lost after the last retry, or at the close. */
    readonly lost: number;
  }[];
}

/** More apps than these would be more series than anybody looks at. */
const MAX_APPS = 100;

/** Transports that the package has. Another one is listed from its first client on. */
const TRANSPORTS = Object.freeze(["ws", "xhr_streaming", "xhr_polling"]);

const SOURCES = Object.freeze(["program", "http_api", "client"] as const);

const AUTH_ENDPOINTS: ReadonlyMap<string, string> = new Map([
  ["pusher/auth", "channel"],
  ["pusher/user-auth", "user"],
]);

/** By the close code, how a connection was refused. */
const REFUSALS: readonly { code: number; message: string; name: string }[] =
  Object.entries(CLOSE).map(([name, close]) => ({
    ...close,
    name: name.replace(/(?!^)[A-Z]/g, "_$&").toLowerCase(),
  }));

/** Codes that the server sends, and that the runtime sees; a client may send any. */
const CODES: ReadonlySet<number> = new Set([
  ...[1000, 1001, 1002, 1005, 1006, 1009],
  ...Object.values(CLOSE).map(({ code }) => code),
]);

const COUNTS: Readonly<Record<keyof AppCounts, MetricName>> = Object.freeze({
  messagesReceived: "pusher_messages_received_total",
  bytesReceived: "pusher_received_bytes_total",
  messagesSent: "pusher_messages_sent_total",
  bytesSent: "pusher_sent_bytes_total",
  replays: "pusher_replays_total",
  losses: "pusher_recovery_failed_total",
  slowClients: "pusher_slow_clients_total",
});

/** Keeps the metrics of one server. */
export class Collector {
  readonly #server: MeteredServer;
  readonly #webhooks: readonly RunningWebhooks[];
  readonly #values: Values;
  readonly #lag: Lag;
  readonly #stop: (() => void)[];
  /** Whether the apps are told apart. */
  readonly #perApp: boolean;
  #isDown: boolean;
  /** The text that is being made: all who ask in the meantime get it. */
  #text: Promise<string> | null = null;

  constructor(
    server: MeteredServer,
    webhooks: readonly RunningWebhooks[],
    labels: Labels,
  ) {
    this.#server = server;
    this.#webhooks = webhooks;
    this.#values = new Values(labels);
    this.#lag = new Lag((lateMs) =>
      this.#values.observe("pusher_event_loop_lag_seconds", {}, lateMs)
    );
    this.#isDown = !server.meter.isBackplaneUp;
    const { apps } = server.meter.figures();
    this.#perApp = apps.length <= MAX_APPS;
    // A counter that begins with its first event hides that event from `rate`.
    for (const { app } of apps) {
      const own = { app: this.#labelOf(app) };
      this.#add("pusher_connections_opened_total", own, 0);
      for (const source of SOURCES) {
        const labels = { ...own, source, outcome: "accepted" };
        this.#add("pusher_publishes_total", labels, 0);
      }
    }
    this.#add("pusher_backplane_reconnects_total", {}, 0);
    this.#stop = this.#listen();
  }

  get contentType(): string {
    return this.#values.contentType;
  }

  /** All metrics as text. */
  text(): Promise<string> {
    this.#text ??= this.#collect().finally(() => this.#text = null);
    return this.#text;
  }

  close(): void {
    for (const stop of this.#stop.splice(0)) stop();
    this.#lag.end();
  }

  get isClosed(): boolean {
    return this.#stop.length === 0;
  }

  // ---- What is told

  #listen(): (() => void)[] {
    const { meter } = this.#server;
    const on = this.#server.on.bind(this.#server);
    return [
      on("connected", ({ app }) => {
        this.#add("pusher_connections_opened_total", this.#own(app));
      }),
      on("disconnected", ({ app, code }) => {
        const known = CODES.has(code) ? String(code) : "other";
        const labels = { ...this.#own(app), code: known };
        this.#add("pusher_connections_closed_total", labels);
      }),
      on("refused", (event) => this.#refused(event)),
      on("recovered", ({ app, recovered }) => {
        const outcome = recovered ? "recovered" : "lost";
        const labels = { ...this.#own(app), outcome };
        this.#add("pusher_recoveries_total", labels);
      }),
      on("backplane", ({ up }) => {
        if (up && this.#isDown) {
          this.#add("pusher_backplane_reconnects_total", {});
        }
        this.#isDown = !up;
      }),
      meter.observe((measurement) => this.#measured(measurement)),
    ];
  }

  #refused({ app, what, reason, code }: Hooks["refused"]): void {
    const own = this.#own(app);
    if (what !== "connection") {
      const labels = { ...own, what, code: String(code) };
      return this.#add("pusher_refusals_total", labels);
    }
    const same = REFUSALS.filter((refusal) => refusal.code === code);
    // Some messages name a version or a limit.
    const exact = same.find(({ message }) => message === reason) ?? same[0];
    const labels = { ...own, reason: exact?.name ?? "other" };
    this.#add("pusher_connections_refused_total", labels);
  }

  #measured(measurement: Measurement): void {
    const { tookMs, isDone } = measurement;
    switch (measurement.what) {
      case "publish": {
        const { app, source } = measurement;
        const outcome = isDone ? "accepted" : "failed";
        const labels = { ...this.#own(app), source, outcome };
        this.#add("pusher_publishes_total", labels);
        const timed = "pusher_publish_duration_seconds";
        return this.#values.observe(timed, { source }, tookMs);
      }
      case "backplane": {
        const labels = { outcome: isDone ? "answered" : "failed" };
        const timed = "pusher_backplane_duration_seconds";
        return this.#values.observe(timed, labels, tookMs);
      }
      case "request": {
        const { route, status } = measurement;
        const labels = { route, status: String(status) };
        this.#add("pusher_http_requests_total", labels);
        const timed = "pusher_http_request_duration_seconds";
        this.#values.observe(timed, { route }, tookMs);
        this.#answered(route, status);
      }
    }
  }

  #answered(route: string, status: number): void {
    const endpoint = AUTH_ENDPOINTS.get(route);
    // Browsers ask first whether they may ask.
    if (endpoint === undefined || status === 204) return;
    const outcome = status < 300
      ? "allowed"
      : status === 401 || status === 403
      ? "denied"
      : status < 500
      ? "invalid"
      : "failed";
    this.#add("pusher_auth_requests_total", { endpoint, outcome });
  }

  #add(name: MetricName, labels: Labels, by = 1): void {
    this.#values.add(name, labels, by);
  }

  /** The label of an app; requests of no app have an empty one. */
  #own(app: string | undefined): Labels {
    return { app: this.#labelOf(app ?? "") };
  }

  #labelOf(app: string): string {
    return this.#perApp ? app : "";
  }

  // ---- What is there

  async #collect(): Promise<string> {
    if (!this.isClosed) this.#lag.keepUp();
    const { meter } = this.#server;
    const { errors, apps } = meter.figures();
    const stats = this.#server.stats();
    this.#collectApps(apps);
    this.#collectWebhooks();
    const figures = new Map<MetricName, number | null>([
      ["pusher_messages_dropped_total", stats.droppedFrames],
      ["pusher_history_bytes", stats.historyBytes],
      ["pusher_history_events", stats.historyEvents],
      ["pusher_ready", Number(stats.ready)],
      ["pusher_closing", Number(meter.isClosing)],
      ["pusher_backplane_up", Number(meter.isBackplaneUp)],
      ["pusher_errors_total", errors],
      ...processFigures(),
    ]);
    for (const [name, value] of figures) {
      if (value === null) this.#values.clear(name);
      else this.#values.replace(name, [[{}, value]]);
    }
    this.#values.replace("pusher_sessions", [
      [{ state: "connected" }, stats.sessions],
      [{ state: "away" }, stats.sessionsAway],
    ]);
    return await this.#values.text();
  }

  #collectApps(apps: readonly AppFigures[]): void {
    const list = apps.map((figures) => ({
      ...figures,
      own: { app: this.#labelOf(figures.app) },
    }));
    const replace = (
      name: MetricName,
      values: (app: typeof list[number]) => (readonly [Labels, number])[],
    ) => this.#values.replace(name, list.flatMap(values));
    replace("pusher_connections", ({ own, transports }) => {
      const none = TRANSPORTS.map((name) => [name, 0] as const);
      return [...none, ...Object.entries(transports)].map(
        ([transport, count]) => [{ ...own, transport }, count],
      );
    });
    replace("pusher_unauthorized_connections", (app) => [
      [app.own, app.unauthorizedConnections],
    ]);
    replace("pusher_buffered_bytes", (app) => [[app.own, app.bufferedBytes]]);
    replace("pusher_presence_members", (app) => [[app.own, app.members]]);
    const kinds = [
      ...list.flatMap(({ own, kinds }) =>
        [...kinds].map(([prefix, figures]) => ({
          labels: { ...own, kind: prefix.replace(/-$/, "") || "public" },
          figures,
        }))
      ),
    ];
    this.#values.replace(
      "pusher_channels",
      kinds.map(({ labels, figures }) => [labels, figures.channels]),
    );
    this.#values.replace(
      "pusher_subscriptions",
      kinds.map(({ labels, figures }) => [labels, figures.subscriptions]),
    );
    for (const [field, name] of Object.entries(COUNTS)) {
      // The names of the fields are those of the counts.
      const count = field as keyof AppCounts;
      replace(name, ({ own, counts }) => [[own, counts[count]]]);
    }
  }

  #collectWebhooks(): void {
    const states = this.#webhooks.flatMap(({ status }) => status).map(
      ({ url, ...figures }) => ({ endpoint: new URL(url).host, ...figures }),
    );
    this.#values.replace(
      "pusher_webhook_queued_events",
      states.map(({ endpoint, queued }) => [{ endpoint }, queued]),
    );
    this.#values.replace(
      "pusher_webhook_events_total",
      states.flatMap(({ endpoint, delivered, dropped, lost }) =>
        Object.entries({ delivered, dropped, lost }).map(
          ([outcome, count]) => [{ endpoint, outcome }, count] as const,
        )
      ),
    );
  }
}
