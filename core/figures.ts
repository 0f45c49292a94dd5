/**
 * The figures of a server, and what it measures of itself, as extensions such as
 * `@glitz/pusher/metrics` read them.
 *
 * @module
 */

/** What the clients of one app have done, and were sent, since the start. */
export interface AppCounts {
  /** Messages that clients have sent, those included that were dropped. */
  readonly messagesReceived: number;
  /** Bytes of these messages. */
  readonly bytesReceived: number;
  /** Messages that were sent to clients: each counts once per client. */
  readonly messagesSent: number;
  /** Bytes of these messages, as they went to the transports. */
  readonly bytesSent: number;
  /** Replays that were begun: a client had missed messages of a channel. */
  readonly replays: number;
  /** How often a client got `pusher:recovery_failed`. */
  readonly losses: number;
  /** Connections that were closed, as they left too much unread. */
  readonly slowClients: number;
}

/** Channels of one kind, and how many are subscribed to them, on this server. */
export interface KindFigures {
  /** Channels that a connection of this server is on. */
  channels: number;
  /** Subscriptions of this server's connections. */
  subscriptions: number;
}

/** The figures of one app on this server. */
export interface AppFigures {
  /** Id of the app. */
  readonly app: string;
  /** What has happened since the start. */
  readonly counts: AppCounts;
  /** Live connections by transport, such as `{ ws: 12, xhr_polling: 1 }`. */
  readonly transports: Readonly<Record<string, number>>;
  /** How many of them have not authorized yet, with `authorizationTimeoutMs`. */
  readonly unauthorizedConnections: number;
  /** Bytes that were sent, and that clients have not read yet. */
  readonly bufferedBytes: number;
  /**
   * By the prefix of the channels' names, such as `private-cache-`; public channels
   * have the prefix `""`.
   */
  readonly kinds: ReadonlyMap<string, Readonly<KindFigures>>;
  /** Members of presence channels: users, once for each channel. */
  readonly members: number;
}

/** The figures of a server. */
export interface Figures {
  /** Failures that `error` listeners heard of, or that were printed. */
  readonly errors: number;
  /** Each app that the options name, in their order. */
  readonly apps: readonly AppFigures[];
}

/** Who has published: the program, a backend over the HTTP API, or a client. */
export type PublishSource = "program" | "http_api" | "client";

/** Something that a server has done, and how long it took. */
export type Measurement =
  & {
    /** In milliseconds. */
    readonly tookMs: number;
    /** Whether it succeeded. */
    readonly isDone: boolean;
  }
  & (
    | {
      /** An event was published, to one channel or several. */
      readonly what: "publish";
      /** Id of the app. */
      readonly app: string;
      /** Who has published it. */
      readonly source: PublishSource;
    }
    | {
      /** The backplane has answered a call, later than in the same turn. */
      readonly what: "backplane";
    }
    | {
      /** A request to the HTTP API or to an auth endpoint was answered. */
      readonly what: "request";
      /** The route without names, such as `channels/*`; `unknown` if there is none. */
      readonly route: string;
      /** Status of the answer; 500 if there is none. */
      readonly status: number;
    }
  );

/** Measures a server, for extensions. Made by the server, see {@linkcode Pusher.meter}. */
export interface Meter {
  /** Whether the backplane can be reached. It costs nothing to ask. */
  readonly isBackplaneUp: boolean;
  /** Whether the server is closing, or has closed. It costs nothing to ask. */
  readonly isClosing: boolean;
  /**
   * The figures of this moment. It visits each connection and each channel of this
   * server, so it should be called each few seconds at most.
   */
  figures(): Figures;
  /**
   * Has a function called after each publish, request, and call of a backplane that
   * other processes share.
   * Without such a function the server measures no times. If it throws, that is an
   * `error`, and the server goes on.
   *
   * @returns Stops the calls.
   */
  observe(observer: (measurement: Measurement) => void): () => void;
}
