/**
 * An observer: a client that recovers, frame by frame, connected to one node past the
 * balancer. It says at which position it hears what, and keeps a list of members by
 * the rules of the protocol alone.
 *
 * @module
 */
import { APP } from "../../support/server.ts";
import {
  channelAuth,
  dataOf,
  decodeFrame,
  type Frame,
  type Position,
  userAuth,
} from "../../support/wire.ts";
import { CLIENT_EVENT, EVENT, userChannel } from "../loss/clients.ts";
import type { Truth } from "./truth.ts";

const RECONNECT_MS = 250;

/** What {@linkcode Probe} takes. */
export interface ProbeOptions {
  readonly name: string;
  /** The node's port. */
  readonly port: number;
  /** Who it is on presence channels. */
  readonly member: string;
  /** As whom it signs in, if it does. */
  readonly user?: string;
  readonly channels: readonly string[];
  readonly truth: Truth;
  /** For how long messages are kept. */
  readonly historyMs: number;
  /** Whether it comes back when its connection is lost. */
  readonly returns: boolean;
  /** Is called after whatever happens to it. */
  readonly onChange: () => void;
  /** Is told who came to and left a channel, as this observer hears it. */
  readonly onMember?: (channel: string, user: string, isThere: boolean) => void;
}

/** A client at one node. */
export class Probe {
  readonly name: string;
  readonly problems: string[] = [];
  /** Gaps that it was told of, though it was not away for longer than the history. */
  readonly gaps: string[] = [];
  connections = 0;
  /** How often it heard that somebody came or left. */
  transitions = 0;
  readonly #options: ProbeOptions;
  readonly #positions = new Map<string, Position>();
  readonly #rosters = new Map<string, Set<string>>();
  readonly #joined = new Set<string>();
  /** Former socket ids, the latest first. */
  #was: string[] = [];
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isStopped = true;
  #trail: string[] = [];
  /** When it lost its last connection, and how long it then had none. */
  #lostAt = performance.now();
  #awayMs = 0;

  constructor(options: ProbeOptions) {
    this.#options = options;
    this.name = options.name;
  }

  /** Who it is on presence channels. */
  get member(): string {
    return this.#options.member;
  }

  /** Whether it has left for good. */
  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Whether it is on all its channels. */
  get isSettled(): boolean {
    return this.#wanted.every((channel) => this.#joined.has(channel));
  }

  /** Whom it sees on a presence channel. */
  roster(channel: string): string[] {
    return [...this.#rosters.get(channel) ?? []].sort();
  }

  /** The last that happened to it, for people. */
  get trail(): string {
    return this.#trail.join("; ");
  }

  get #wanted(): string[] {
    const { channels, user } = this.#options;
    return user === undefined
      ? [...channels]
      : [...channels, userChannel(user)];
  }

  start(): void {
    this.#isStopped = false;
    this.#connect();
  }

  /** Leaves for good. */
  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    this.#joined.clear();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
  }

  #connect(): void {
    const former = this.#was.length > 0 ? `&was=${this.#was.join()}` : "";
    const socket = new WebSocket(
      `ws://127.0.0.1:${this.#options.port}/app/${APP.key}` +
        `?protocol=7&client=probe&recover=1${former}`,
    );
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      const texts = JSON.parse(data);
      const frames = Array.isArray(texts) ? texts : [decodeFrame(data)];
      for (const frame of frames) this.#hear(socket, frame);
      this.#options.onChange();
    };
    const end = (why: string) => {
      if (this.#socket !== socket) return;
      if (this.#joined.size > 0) this.#lostAt = performance.now();
      this.#socket = null;
      this.#joined.clear();
      this.#note(`closed ${why}`);
      this.#options.onChange();
      if (this.#isStopped || !this.#options.returns) return;
      this.#timer = setTimeout(() => this.#connect(), RECONNECT_MS);
    };
    socket.onclose = ({ code }) => end(`${code}`);
    // A close follows, but not always in time.
    socket.onerror = () => end("after an error");
  }

  #hear(socket: WebSocket, frame: Frame): void {
    const send = (event: string, data: object) =>
      socket.send(JSON.stringify({ event, data }));
    const { event, channel = "" } = frame;
    switch (event) {
      case "pusher:connection_established":
        return this.#enter(dataOf(frame).socket_id, send);
      case "pusher:ping":
        return send("pusher:pong", {});
      case "pusher_internal:subscription_succeeded":
        // The confirmation of a sign-in has the name of an own channel.
        if (!this.#options.channels.includes(channel)) return;
        this.#note(`on ${channel} ${frame.recovered}`);
        return this.#join(channel, frame);
      case "pusher:signin_success": {
        const { user } = this.#options;
        if (user !== undefined) this.#join(userChannel(user), frame);
        return;
      }
      case "pusher:subscription_error":
      case "pusher:error":
        this.#note(`${event} ${JSON.stringify(frame.data)}`);
        if (event === "pusher:subscription_error") socket.close();
        return;
      case "pusher:recovery_failed":
        this.#tellGap(channel, frame.position);
        if (frame.position) this.#positions.set(channel, frame.position);
        return;
      case "pusher_internal:member_added":
      case "pusher_internal:member_removed":
        return this.#hearMember(channel, frame);
      case EVENT:
      case CLIENT_EVENT:
        return this.#hearMessage(channel, frame);
    }
  }

  #enter(
    socketId: string,
    send: (event: string, data: object) => void,
  ): void {
    this.connections++;
    this.#awayMs = performance.now() - this.#lostAt;
    this.#was = [socketId, ...this.#was].slice(0, 8);
    const { channels, member, user } = this.#options;
    for (const channel of channels) {
      const isPresence = channel.startsWith("presence-");
      const channelData = JSON.stringify({ user_id: member });
      const isPublic = !/^(private|presence)-/.test(channel);
      send("pusher:subscribe", {
        channel,
        ...isPublic ? {} : {
          auth: channelAuth(
            ...[APP, socketId, channel] as const,
            isPresence ? channelData : undefined,
          ),
        },
        ...isPresence && { channel_data: channelData },
        ...this.#recover(channel),
      });
    }
    if (user === undefined) return;
    const userData = JSON.stringify({ id: user });
    send("pusher:signin", {
      auth: userAuth(APP, socketId, userData),
      user_data: userData,
      ...this.#recover(userChannel(user)),
    });
  }

  #recover(channel: string): { recover?: Position } {
    const position = this.#positions.get(channel);
    return position === undefined ? {} : { recover: position };
  }

  #tellGap(channel: string, now: Position | undefined): void {
    const before = this.#positions.get(channel);
    this.#note(`told of a gap on ${channel}`);
    if (this.#awayMs > this.#options.historyMs / 2) return;
    this.gaps.push(
      `${this.name} was told of a gap on ${channel} from ` +
        `${JSON.stringify(before)} to ${JSON.stringify(now)} after ` +
        `${Math.round(this.#awayMs)} ms: ${this.trail}`,
    );
  }

  #join(channel: string, frame: Frame): void {
    this.#joined.add(channel);
    if (frame.position) this.#positions.set(channel, frame.position);
    if (!channel.startsWith("presence-")) return;
    const { presence } = dataOf(frame);
    this.#rosters.set(channel, new Set(presence.ids));
  }

  #hearMember(channel: string, frame: Frame): void {
    const user: string = dataOf(frame).user_id;
    const isThere = frame.event.endsWith("added");
    const roster = this.#rosters.get(channel);
    this.#note(`${isThere ? "+" : "-"}${user}`);
    if (roster === undefined || roster.has(user) === isThere) {
      this.problems.push(
        `${this.name} heard that ${user} ${isThere ? "came" : "left"} ` +
          `and knew it: ${this.trail}`,
      );
    }
    if (isThere) roster?.add(user);
    else roster?.delete(user);
    this.transitions++;
    this.#options.onMember?.(channel, user, isThere);
  }

  #hearMessage(channel: string, frame: Frame): void {
    const { n } = dataOf(frame);
    const { truth } = this.#options;
    truth.arrived(n);
    const at = this.#advance(channel, frame);
    if (at) truth.observe(channel, at, n);
  }

  /** Goes on to the position of a frame. */
  #advance(channel: string, { offset }: Frame): Position | null {
    const position = this.#positions.get(channel);
    if (position === undefined || offset === undefined) return null;
    if (offset <= position.offset) {
      this.problems.push(
        `${this.name} is at ${position.offset} of ${channel} and heard ${offset}`,
      );
    }
    const at = { ...position, offset };
    this.#positions.set(channel, at);
    return at;
  }

  #note(line: string): void {
    this.#trail.push(`${Math.round(performance.now())} ${line}`);
    if (this.#trail.length > 30) this.#trail.shift();
  }
}
