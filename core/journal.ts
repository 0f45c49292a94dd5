/**
 * The journal: what happens on the channels of all servers, kept until somebody has
 * read it. A backplane that several servers share may keep one, so that an extension
 * such as webhooks loses nothing when a server dies.
 *
 * @module
 */

import type { ClientEvent, Hooks } from "./calls.ts";
import type { Awaitable } from "./time.ts";

/** What a {@linkcode JournalEntry} says: the names are those of {@linkcode Hooks}. */
export type JournalKind = keyof Pick<
  Hooks,
  | "channel_occupied"
  | "channel_vacated"
  | "member_added"
  | "member_removed"
  | "client_event"
  | "cache_miss"
  | "subscription_count"
  | "published"
>;

/** What the server writes with {@linkcode Journal.append}. */
export type NotedKind = "cache_miss" | "subscription_count";

/** Something that happened on a channel. */
export interface JournalEntry {
  /**
   * What has happened. `published` is there only after a `cache_miss`, for the
   * first event that became the channel's last event since.
   */
  readonly kind: JournalKind;
  /** Id of the app. */
  readonly app: string;
  /** The channel. */
  readonly channel: string;
  /** The member, of `member_added` and `member_removed`. */
  readonly userId?: string | undefined;
  /** Connections subscribed, of `subscription_count`. */
  readonly subscriptionCount?: number | undefined;
  /** The event, of `client_event`. */
  readonly clientEvent?:
    | Omit<ClientEvent, "app" | "channel">
    | undefined;
}

/** An entry that was read. */
export interface ReadEntry extends JournalEntry {
  /** When it was written, in milliseconds of the clock of its part. */
  readonly timeMs: number;
}

/** Some entries of one part of a journal. */
export interface JournalPage {
  /** In the order in which they were written. */
  readonly entries: readonly ReadEntry[];
  /** Where the next page begins; opaque. */
  readonly position: string;
  /** The time now, by the clock of the part. */
  readonly timeMs: number;
  /** Whether there was more to read. */
  readonly hasMore: boolean;
  /** Entries before these that were dropped, as nobody had read them in time. */
  readonly dropped: number;
}

/**
 * Entries of all servers, in parts that each have an order of their own: all entries
 * of a channel are in one part. The entries of the transitions are written in the
 * same atomic step as these. It is kept only while somebody reads it, and the oldest
 * entries are dropped where nobody has read them for too long.
 */
export interface Journal {
  /** How many parts there are. */
  readonly parts: number;
  /**
   * Writes what no call of the backplane says: `cache_miss` and
   * `subscription_count`. Without a reader it does nothing.
   */
  append(entry: JournalEntry): Awaitable<void>;
  /**
   * Says that this server wants to read. From the next call of the backplane on
   * nothing is left out, also where {@linkcode Backplane.start} has not been answered.
   *
   * @returns Says that it wants to read no more.
   */
  want(): () => void;
  /**
   * Becomes the reader of a name, for {@linkcode JournalReader.leaseMs}. One server
   * at a time is it.
   *
   * @param name The same on each server, after a restart as well.
   * @param options `ageMs`: for how long entries were wanted already, where nobody
   * has read under that name yet. `yield`: called when the backplane closes, which
   * waits for it; it releases the reader.
   * @returns Null while another server is the reader. Rejects if the journal cannot
   * be reached.
   */
  claim(
    name: string,
    options: { ageMs: number; yield: () => Promise<void> },
  ): Promise<JournalReader | null>;
}

/**
 * A reader of a {@linkcode Journal}. It keeps notes, which its successor finds when
 * this server has died. Only by its notes does anybody know how far it has read.
 */
export interface JournalReader {
  /** For how long this server is the reader after a {@linkcode commit}. */
  readonly leaseMs: number;
  /** The time by the clock of the lease, in milliseconds, when it was claimed. */
  readonly timeMs: number;
  /** All notes. */
  notes(): Promise<ReadonlyMap<string, string>>;
  /**
   * Reads on in one part.
   *
   * @param position That of the page before; undefined at first.
   */
  read(part: number, position: string | undefined): Promise<JournalPage>;
  /**
   * Stores notes, all or none, and goes on being the reader.
   *
   * @param changes By name; null to forget a note.
   * @returns The time by the clock of the lease, in milliseconds; null if another
   * server has become the reader, and then nothing was stored. Rejects where that is
   * not known.
   */
  commit(changes: ReadonlyMap<string, string | null>): Promise<number | null>;
  /** Lets another server become the reader at once. */
  release(): Promise<void>;
}

/** The journal of one app, as {@linkcode Pusher.journal} hands it out. */
export interface AppJournal {
  /** Id of the app. */
  readonly app: string;
  /** Entries of all apps. */
  readonly journal: Journal;
}
