/**
 * The metrics: their names, kinds and labels. `docs/metrics.md` has a row for each.
 *
 * @module
 */

/** A metric, as it is exported. */
export interface Definition {
  readonly type: "counter" | "gauge" | "histogram";
  /** What it says, in a line. */
  readonly help: string;
  readonly labels?: readonly string[];
}

const app = "app";

export const DEFINITIONS = Object.freeze(
  {
    // ---- Connections
    pusher_connections: {
      type: "gauge",
      help: "Live connections.",
      labels: [app, "transport"],
    },
    pusher_unauthorized_connections: {
      type: "gauge",
      help: "Live connections that still have to authorize.",
      labels: [app],
    },
    pusher_connections_opened_total: {
      type: "counter",
      help: "Connections that were established.",
      labels: [app],
    },
    pusher_connections_closed_total: {
      type: "counter",
      help: "Connections that have ended, by close code.",
      labels: [app, "code"],
    },
    pusher_connections_refused_total: {
      type: "counter",
      help: "Connections that were refused.",
      labels: [app, "reason"],
    },
    pusher_slow_clients_total: {
      type: "counter",
      help: "Connections that were closed, as they left too much unread.",
      labels: [app],
    },
    pusher_buffered_bytes: {
      type: "gauge",
      help: "Bytes that were sent, and that clients have not read yet.",
      labels: [app],
    },
    // ---- Channels
    pusher_channels: {
      type: "gauge",
      help: "Channels that this server has subscribers on.",
      labels: [app, "kind"],
    },
    pusher_subscriptions: {
      type: "gauge",
      help: "Subscriptions of this server's connections.",
      labels: [app, "kind"],
    },
    pusher_presence_members: {
      type: "gauge",
      help: "Users on presence channels, once for each channel.",
      labels: [app],
    },
    // ---- Messages
    pusher_messages_received_total: {
      type: "counter",
      help: "Messages from clients.",
      labels: [app],
    },
    pusher_received_bytes_total: {
      type: "counter",
      help: "Bytes of the messages from clients.",
      labels: [app],
    },
    pusher_messages_dropped_total: {
      type: "counter",
      help: "Messages from clients that were dropped for their size or rate.",
    },
    pusher_messages_sent_total: {
      type: "counter",
      help: "Messages to clients, once for each client.",
      labels: [app],
    },
    pusher_sent_bytes_total: {
      type: "counter",
      help: "Bytes of the messages to clients.",
      labels: [app],
    },
    pusher_publishes_total: {
      type: "counter",
      help: "Events that the program, the HTTP API or clients have published.",
      labels: [app, "source", "outcome"],
    },
    pusher_publish_duration_seconds: {
      type: "histogram",
      help: "Time until the backplane has accepted an event.",
      labels: ["source"],
    },
    pusher_refusals_total: {
      type: "counter",
      help: "What clients and backends asked for and did not get.",
      labels: [app, "what", "code"],
    },
    // ---- HTTP
    pusher_http_requests_total: {
      type: "counter",
      help: "Requests to the HTTP API and the auth endpoints.",
      labels: ["route", "status"],
    },
    pusher_http_request_duration_seconds: {
      type: "histogram",
      help: "Time until such a request is answered.",
      labels: ["route"],
    },
    pusher_auth_requests_total: {
      type: "counter",
      help: "Requests to the auth endpoints, by their outcome.",
      labels: ["endpoint", "outcome"],
    },
    // ---- Recovery
    pusher_recoveries_total: {
      type: "counter",
      help: "Subscriptions of clients that came back to a channel.",
      labels: [app, "outcome"],
    },
    pusher_replays_total: {
      type: "counter",
      help: "Replays of missed messages that were begun.",
      labels: [app],
    },
    pusher_recovery_failed_total: {
      type: "counter",
      help: "Events pusher:recovery_failed that were sent.",
      labels: [app],
    },
    pusher_sessions: {
      type: "gauge",
      help: "Recovery sessions of stock clients, in this process.",
      labels: ["state"],
    },
    pusher_history_bytes: {
      type: "gauge",
      help: "Bytes of the history, if it is in this process.",
    },
    pusher_history_events: {
      type: "gauge",
      help: "Events in the history, if it is in this process.",
    },
    // ---- Server
    pusher_ready: {
      type: "gauge",
      help: "1 if the server can serve clients, else 0.",
    },
    pusher_closing: {
      type: "gauge",
      help: "1 while the server closes its connections, else 0.",
    },
    pusher_backplane_up: {
      type: "gauge",
      help: "1 if the backplane can be reached, else 0.",
    },
    pusher_backplane_reconnects_total: {
      type: "counter",
      help: "How often the backplane has come back.",
    },
    pusher_backplane_duration_seconds: {
      type: "histogram",
      help: "Time until the backplane has answered a call, if it is remote.",
      labels: ["outcome"],
    },
    pusher_errors_total: {
      type: "counter",
      help: "Failures that the error hook has reported, or that were printed.",
    },
    pusher_event_loop_lag_seconds: {
      type: "histogram",
      help: "How late a timer runs, taken twice a second.",
    },
    // ---- Webhooks
    pusher_webhook_queued_events: {
      type: "gauge",
      help: "Events that wait for an endpoint.",
      labels: ["endpoint"],
    },
    pusher_webhook_events_total: {
      type: "counter",
      help: "Events that an endpoint has accepted or will not get.",
      labels: ["endpoint", "outcome"],
    },
    // ---- Process
    process_cpu_seconds_total: {
      type: "counter",
      help: "Time of CPU that the process has used.",
    },
    process_resident_memory_bytes: {
      type: "gauge",
      help: "Memory of the process.",
    },
    process_heap_bytes: {
      type: "gauge",
      help: "Memory of JavaScript objects, used or reserved.",
    },
    process_start_time_seconds: {
      type: "gauge",
      help: "When the process has started, in seconds since 1970.",
    },
    process_open_fds: {
      type: "gauge",
      help: "File descriptors in use; only on Linux, with all permissions.",
    },
    process_max_fds: {
      type: "gauge",
      help: "File descriptors that the process may use; only on Linux, " +
        "with all permissions.",
    },
  } as const satisfies Record<string, Definition>,
);

export type MetricName = keyof typeof DEFINITIONS;

/** Seconds; a publish takes microseconds, a slow Redis seconds. */
export const BUCKETS: readonly number[] = Object.freeze(
  [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
);
