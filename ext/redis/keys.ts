/**
 * The names of everything in Redis. The head of `ext/redis.ts` says what each key
 * holds.
 *
 * @module
 */

import { OWN_CHANNEL } from "../../core/protocol.ts";

/**
 * Channels are spread over so many buckets. The keys and topics of a bucket share a
 * hash tag, so on Redis Cluster they are on one node, and one script can change a
 * channel, what a server holds there, and the index of channels together.
 */
export const BUCKETS = 64;

/** The bucket that also holds what is not of a channel: leases. */
export const LEASE_BUCKET = 0;

/** A channel of an app, with its place in Redis. */
export interface ChannelKeys {
  readonly app: string;
  readonly channel: string;
  /** App and channel in one text. No app's id has a space. */
  readonly name: string;
  readonly bucket: number;
  /** State: positions and counts. */
  readonly state: string;
  /** Connections by user. */
  readonly users: string;
  /** `user_info` by user. */
  readonly members: string;
  /** The stream of the history. */
  readonly history: string;
  /** The last event of a cache channel. */
  readonly last: string;
  /** The topic on which messages come. */
  readonly topic: string;
}

/** A session of an app, with its place in Redis. */
export interface SessionKeys {
  /** App and session in one text. */
  readonly name: string;
  readonly bucket: number;
  /** State and owner. */
  readonly state: string;
  /** Digests of the sessions of the bucket that there were, by when they were kept. */
  readonly known: string;
  /** Sessions of the bucket whose clients are away, by when they left. */
  readonly away: string;
}

/** Makes the names, all with one prefix. */
export class Keys {
  /** The tag of each bucket. */
  readonly tags: readonly string[];

  readonly #prefix: string;

  /** @param prefix Without braces, which delimit the tag. */
  constructor(prefix: string) {
    this.#prefix = prefix;
    this.tags = Array.from({ length: BUCKETS }, (_, i) => `{${prefix}:${i}}`);
  }

  /** What the names of all keys and topics match, as rules of Redis have it. */
  get patterns(): string[] {
    // Each of these would stand for other characters.
    const prefix = this.#prefix.replace(/[*?[\]\\^-]/g, "\\$&");
    // Buckets have one digit or two. A prefix that begins with this one has more.
    return [`{${prefix}:?}:*`, `{${prefix}:??}:*`];
  }

  tag(bucket: number): string {
    // Whoever names a bucket has it from here.
    return this.tags[bucket]!;
  }

  /** Which server's Redis, and so which epoch, the bucket has. */
  meta(bucket: number): string {
    return `${this.tag(bucket)}:meta`;
  }

  /** What an incarnation of a server holds of a bucket. */
  holdings(bucket: number, incarnation: string): string {
    return `${this.tag(bucket)}:n:${incarnation}`;
  }

  /** The index of occupied channels. */
  occupied(bucket: number): string {
    return `${this.tag(bucket)}:occ`;
  }

  /** Transitions for webhooks. */
  journal(bucket: number): string {
    return `${this.tag(bucket)}:w`;
  }

  /** The lease and the notes of a reader of the journal. */
  reader(digest: string): { bucket: number; key: string } {
    const bucket = bucketOf(digest);
    return { bucket, key: `${this.tag(bucket)}:r:${digest}` };
  }

  /** Departures of a flushed Redis that were announced. */
  announced(bucket: number): string {
    return `${this.tag(bucket)}:gone`;
  }

  /** Leases of all incarnations, by the time at which they end. */
  get leases(): string {
    return `${this.tag(LEASE_BUCKET)}:nodes`;
  }

  /** Incarnations whose lease has ended, and whose holdings are to be released. */
  get lapsed(): string {
    return `${this.tag(LEASE_BUCKET)}:dead`;
  }

  /** The topic of what is for one server, such as the loss of a session. */
  serverTopic(bucket: number, server: string): string {
    return `${this.tag(bucket)}:@${server}`;
  }

  /** The topic of what servers say to each other under a label. */
  label(label: string): { bucket: number; topic: string } {
    const bucket = bucketOf(label);
    return { bucket, topic: `${this.tag(bucket)}:i:${label}` };
  }

  session(app: string, id: string): SessionKeys {
    const name = `${app} ${id}`;
    const bucket = bucketOf(name);
    const tag = this.tag(bucket);
    return {
      bucket,
      name,
      state: `${tag}:x:${name}`,
      known: `${tag}:y`,
      away: `${tag}:z`,
    };
  }

  /** The session of a name. */
  sessionNamed(name: string): SessionKeys {
    const end = name.indexOf(" ");
    return this.session(name.slice(0, end), name.slice(end + 1));
  }

  channel(app: string, channel: string): ChannelKeys {
    const name = `${app} ${channel}`;
    const bucket = bucketOf(`${app} ${bucketName(channel)}`);
    return this.#named(bucket, name, app, channel);
  }

  /** The channel of a bucket by its name in an index. */
  named(name: string): ChannelKeys {
    const end = name.indexOf(" ");
    return this.channel(name.slice(0, end), name.slice(end + 1));
  }

  #named(
    bucket: number,
    name: string,
    app: string,
    channel: string,
  ): ChannelKeys {
    const tag = this.tag(bucket);
    return {
      app,
      channel,
      name,
      bucket,
      state: `${tag}:h:${name}`,
      users: `${tag}:c:${name}`,
      members: `${tag}:m:${name}`,
      history: `${tag}:s:${name}`,
      last: `${tag}:l:${name}`,
      topic: `${tag}:t:${name}`,
    };
  }
}

/** The channels of one user share a bucket, as one announces the other's changes. */
function bucketName(channel: string): string {
  if (!channel.startsWith("#")) return channel;
  for (const prefix of Object.values(OWN_CHANNEL)) {
    if (channel.startsWith(prefix)) return `#${channel.slice(prefix.length)}`;
  }
  return channel;
}

/** FNV-1a over the UTF-16 units. Every version must compute the same. */
function bucketOf(text: string): number {
  let hash = 2_166_136_261;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 16_777_619);
  }
  return (hash >>> 0) % BUCKETS;
}
