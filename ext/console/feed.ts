/**
 * The stream of events: what the hooks say, filtered and sampled for each page that is
 * open. Without pages the server has no listeners from here.
 *
 * @module
 */

import { onlooker } from "../../core/hooks.ts";
import { isObject, kindOf } from "../../core/protocol.ts";
import type { Clock } from "../../core/time.ts";
import type { Hooks, Pusher } from "../../mod.ts";
import { describeError } from "./problems.ts";
import { cut, withoutSecrets } from "./text.ts";

// ---- Kinds ------------------------------------------------------------------

/** What pages filter by: the hooks of each kind. */
export const KINDS = Object.freeze(
  {
    published: ["published"],
    client: ["client_event"],
    connections: ["connected", "disconnected"],
    subscriptions: ["subscribed", "unsubscribed", "recovered"],
    channels: [
      ...["channel_occupied", "channel_vacated"] as const,
      ...["cache_miss", "subscription_count"] as const,
    ],
    members: ["member_added", "member_removed"],
    problems: ["refused", "error", "backplane"],
  } as const satisfies Record<string, readonly (keyof Hooks)[]>,
);

/** The name of a kind. */
export type Kind = keyof typeof KINDS;

export function isKind(name: string): name is Kind {
  return Object.hasOwn(KINDS, name);
}

/** One event as a page gets it. */
export interface FeedEvent {
  /** The server on which it happened. */
  readonly node: string;
  /** Numbers the events of that server's console. */
  readonly n: number;
  /** When it happened, in milliseconds since 1970. */
  readonly at: number;
  readonly kind: Kind;
  /** The hook, as in {@linkcode Hooks}. */
  readonly what: keyof Hooks;
  readonly app?: string | undefined;
  readonly channel?: string | undefined;
  readonly socketId?: string | undefined;
  readonly userId?: string | undefined;
  /** The name of an event that was published or sent by a client. */
  readonly event?: string | undefined;
  /** Its data, or the beginning of it; absent on encrypted channels. */
  readonly data?: string | undefined;
  /** How long the data is, in UTF-16 units. */
  readonly units?: number | undefined;
  /** Whether the data is not shown, as the channel is encrypted. */
  readonly isEncrypted?: boolean | undefined;
  /** What else there is to say. */
  readonly detail?: string | undefined;
}

/** Which events a page wants. Texts are in lower case, and "" fits all. */
export interface Filter {
  readonly app: string;
  /** The server. */
  readonly node: string;
  readonly kinds: ReadonlySet<Kind>;
  readonly channel: string;
  readonly event: string;
  /** Part of any text of the event. */
  readonly search: string;
}

/** Reads a filter from a query; nonsense becomes a default. */
export function readFilter(query: URLSearchParams): Filter {
  const text = (name: string) => (query.get(name) ?? "").slice(0, 200);
  const kinds = query.get("kinds")?.split(",").filter(isKind);
  return {
    app: text("app"),
    node: text("node"),
    kinds: new Set<Kind>(kinds ?? Object.keys(KINDS).filter(isKind)),
    channel: text("channel").toLowerCase(),
    event: text("event").toLowerCase(),
    search: text("search").toLowerCase(),
  };
}

/** The query that reads as a filter; no longer than it has to be. */
export function filterQuery({ kinds, ...texts }: Filter): string {
  return String(new URLSearchParams({ ...texts, kinds: [...kinds].join() }));
}

// ---- Samples for a page -----------------------------------------------------

// A person reads less, and a browser shows so many rows without effort.
const MAX_EVENTS = 40;
/** What is shown of an event's data. */
const DATA_UNITS = 2_048;
/** How much data is searched between two updates. */
const SEARCHED_UNITS = 500_000;

/** The events of one page since its last update. */
export class Selection {
  #filter: Filter;
  #events: FeedEvent[] = [];
  #skipped = 0;
  #searched = 0;

  constructor(filter: Filter) {
    this.#filter = filter;
  }

  /** Takes an event if the page wants it; beyond a number it is only counted. */
  take(event: FeedEvent, data: string): void {
    const { app, node, kinds, channel, search } = this.#filter;
    if (!kinds.has(event.kind)) return;
    if (node !== "" && event.node !== node) return;
    if (app !== "" && event.app !== undefined && event.app !== app) return;
    if (channel !== "" && !contains(event.channel, channel)) return;
    if (
      this.#filter.event !== "" && !contains(event.event, this.#filter.event)
    ) {
      return;
    }
    if (search !== "" && !this.#finds(search, event, data)) return;
    this.#add(event);
  }

  /** Takes events that another server has picked for the page. */
  receive(events: readonly FeedEvent[], skipped: number): void {
    for (const event of events) this.#add(event);
    this.#skipped += skipped;
  }

  #add(event: FeedEvent): void {
    if (this.#events.length < MAX_EVENTS) this.#events.push(event);
    else this.#skipped++;
  }

  #finds(search: string, event: FeedEvent, data: string): boolean {
    if (this.#searched > SEARCHED_UNITS) {
      // Perhaps it fits: the page hears that it does not see everything.
      this.#skipped++;
      return false;
    }
    this.#searched += data.length;
    const { what, channel, socketId, userId, event: name, detail } = event;
    return [what, channel, socketId, userId, name, detail, data].some((text) =>
      contains(text, search)
    );
  }

  /** Takes out what has gathered. */
  flush(): { events: FeedEvent[]; skipped: number } {
    const gathered = { events: this.#events, skipped: this.#skipped };
    this.#events = [];
    this.#skipped = this.#searched = 0;
    return gathered;
  }
}

function contains(text: string | undefined, part: string): boolean {
  return text !== undefined && text.toLowerCase().includes(part);
}

// ---- Hooks ------------------------------------------------------------------

/** Hands the events of a server to all selections. */
export class Feed {
  readonly #pusher: Pick<Pusher, "on">;
  readonly #node: string;
  readonly #clock: Clock;
  readonly #selections = new Set<Selection>();
  #unlisten: (() => void)[] = [];
  #count = 0;
  /** Events that programs and backends have published while it listened. */
  published = 0;

  /** @param node The id of the server. */
  constructor(pusher: Pick<Pusher, "on">, node: string, clock: Clock) {
    this.#pusher = pusher;
    this.#node = node;
    this.#clock = clock;
  }

  add(selection: Selection): void {
    this.#selections.add(selection);
    if (this.#selections.size === 1) this.#listen();
  }

  delete(selection: Selection): void {
    if (!this.#selections.delete(selection) || this.#selections.size > 0) {
      return;
    }
    for (const unlisten of this.#unlisten) unlisten();
    this.#unlisten = [];
  }

  #listen(): void {
    for (const [kind, hooks] of Object.entries(KINDS)) {
      for (const hook of hooks) {
        const take = onlooker((event: AnyEvent) =>
          // The keys of the table are the kinds.
          this.#take(kind as Kind, hook, event)
        );
        this.#unlisten.push(this.#pusher.on(hook, take));
      }
    }
  }

  #take(kind: Kind, what: keyof Hooks, event: AnyEvent): void {
    const { app, channel, socketId, userId } = event;
    const isPublished = kind === "published" || kind === "client";
    if (kind === "published") this.published++;
    const isEncrypted = channel !== undefined && kindOf(channel).encrypted;
    const data = isPublished && !isEncrypted ? event.data ?? "" : "";
    const taken: FeedEvent = {
      ...{ node: this.#node, n: ++this.#count, at: this.#clock.now() },
      ...{ kind, what, app },
      ...{ socketId, userId: userId && cut(userId) },
      channel: channel && cut(channel),
      detail: detailOf(event),
      ...(isPublished && {
        event: cut(event.event ?? ""),
        ...(isEncrypted
          ? { isEncrypted }
          : { data: cut(data, DATA_UNITS), units: data.length }),
      }),
    };
    for (const selection of this.#selections) selection.take(taken, data);
  }
}

/** The fields of all hooks. */
type AnyEvent =
  & { [Field in FieldOf<Hooks[keyof Hooks]>]?: ValueOf<Field> }
  & { app?: string | undefined };

type FieldOf<Event> = Event extends unknown ? keyof Event : never;

type ValueOf<Field extends PropertyKey> = Hooks[keyof Hooks] extends infer Event
  ? Event extends { [Key in Field]?: infer Value } ? Value : never
  : never;

/** What an event says beside its names. */
function detailOf(event: AnyEvent): string | undefined {
  const { code, reason, up, during, error, recovered } = event;
  if (during !== undefined) return describeError(error, during);
  if (reason !== undefined) return `${code}: ${withoutSecrets(cut(reason))}`;
  if (code !== undefined) return `code ${code}`;
  if (up !== undefined) return up ? "reachable" : "away";
  if (recovered !== undefined) {
    return recovered ? "got all that it missed" : "has lost messages";
  }
  const { subscriptionCount } = event;
  return subscriptionCount === undefined ? undefined : `${subscriptionCount}`;
}

// ---- Events of other servers ------------------------------------------------

/** Reads events that another server tells; what is no event is left out. */
export function readEvents(value: unknown, node: string): FeedEvent[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_EVENTS).flatMap((one) => {
    if (!isObject(one)) return [];
    const { n, at, kind, what, units, isEncrypted } = one;
    if (typeof kind !== "string" || !isKind(kind)) return [];
    // Another version may have more hooks.
    const hook = KINDS[kind].find((name) => name === what);
    if (hook === undefined || !Number.isFinite(at)) return [];
    const text = (name: string, length?: number) => {
      const part = one[name];
      return typeof part === "string" ? cut(part, length) : undefined;
    };
    const data = text("data", DATA_UNITS + 1);
    const event = {
      ...{ node, n: Number(n), at: Number(at), kind, what: hook },
      ...{ app: text("app"), channel: text("channel") },
      ...{ socketId: text("socketId"), userId: text("userId") },
      ...{ event: text("event"), detail: text("detail", 2 * DATA_UNITS) },
      ...(isEncrypted === true
        ? { isEncrypted }
        : data !== undefined && { data, units: Number(units) || 0 }),
    };
    return [event];
  });
}
