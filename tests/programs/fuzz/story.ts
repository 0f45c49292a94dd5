/**
 * What was seen. The hooks of a batch say what happened on each channel, in an
 * order. That story has to be possible, has to have what was published, and what
 * every connection was sent has to be a part of it without gaps.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import type { Frame } from "../../support/wire.ts";
import { parse, type Publication } from "./model.ts";
import { INTERNAL } from "./world.ts";

export type Told =
  | { is: "event"; publication: Publication }
  | Added
  | { is: "removed"; userId: string }
  | { is: "count"; count: number };

/** A user came. */
export interface Added {
  is: "added";
  userId: string;
  /** With what, where that is known. */
  info?: string | undefined;
  /** With what it may have been. */
  infos: ReadonlySet<string>;
}

/** Whether a user came with an info; what is sure decides for everybody. */
function agrees(added: Added, info: string, isSure: boolean): boolean {
  if (added.info !== undefined) return added.info === info;
  if (!added.infos.has(info)) return false;
  if (isSure) added.info = info;
  return true;
}

/** Whoever is on a channel, and its last event. */
export interface State {
  members: Map<string, Added>;
  last: Publication | null;
}

/** What happened on one channel in a batch. */
export class Story {
  readonly told: Told[] = [];
  /** The state before each of them, and after the last. */
  readonly states: State[];
  misses = 0;
  missesSeen = 0;
  occupied = 0;
  vacated = 0;

  constructor(state: State) {
    this.states = [state];
  }

  get state(): State {
    return this.states.at(-1)!; // There is one from the start.
  }

  add(told: Told, change: Partial<State> = {}): void {
    this.told.push(told);
    this.states.push({ ...this.state, ...change });
  }
}

/** What one connection was sent of one channel, from joining to leaving. */
export interface Span {
  channel: string;
  fromStart: boolean;
  toEnd: boolean;
  isCounted: boolean;
  parts: ({ frame: Frame } | { joined: Joined })[];
}

/** A subscription that was confirmed. */
export interface Joined {
  members: [id: string, info: string][] | null;
  /** The event that followed; null for a cache miss. */
  cached?: Frame | null;
}

/** Compares a frame to what is told of a channel. */
export function isSame(frame: Frame, told: Told, isSure = false): boolean {
  switch (told.is) {
    case "event": {
      const { event, data, userId } = told.publication;
      return frame.event === event && frame.data === data &&
        frame.user_id === userId;
    }
    case "count":
      return frame.event === `${INTERNAL}subscription_count` &&
        frame.data === JSON.stringify({ subscription_count: told.count });
    case "removed":
      return frame.event === `${INTERNAL}member_removed` &&
        frame.data === JSON.stringify({ user_id: told.userId });
    case "added": {
      if (frame.event !== `${INTERNAL}member_added`) return false;
      const { user_id, user_info, ...rest } = parse(frame.data) ?? {};
      if (user_id !== told.userId || Object.keys(rest).length > 0) return false;
      return agrees(told, JSON.stringify(user_info), isSure);
    }
  }
}

/** Where in a story a span ends that begins there; null if it cannot. */
export function follow(
  span: Span,
  start: number,
  story: Story,
  socketId: string,
): number | null {
  let at = start;
  const isHidden = (told: Told | undefined) =>
    told?.is === "event" && told.publication.except === socketId;
  for (const part of span.parts) {
    if ("joined" in part) {
      while (!fits(part.joined, story.states[at]!)) {
        if (!isHidden(story.told[at])) return null;
        at++;
      }
      continue;
    }
    while (isHidden(story.told[at])) at++;
    const told = story.told[at];
    if (told === undefined || !isSame(part.frame, told, span.fromStart)) {
      return null;
    }
    at++;
  }
  if (!span.toEnd) return at;
  while (isHidden(story.told[at])) at++;
  return at === story.told.length ? at : null;
}

/** Whether a confirmation may have been given in a state. */
function fits({ members, cached }: Joined, state: State): boolean {
  if (cached === null && state.last !== null) return false;
  if (cached) {
    if (state.last === null) return false;
    if (!isSame(cached, { is: "event", publication: state.last })) return false;
  }
  if (members === null) return true;
  if (members.length !== state.members.size) return false;
  return members.every(([id, info]) => {
    const member = state.members.get(id);
    return member !== undefined && agrees(member, info, false);
  });
}

/** The members that a confirmation lists. */
export function listed(frame: Frame): [id: string, info: string][] {
  const { presence, ...rest } = parse(frame.data);
  assertEquals(rest, {});
  const { ids, hash, count, ...more } = presence;
  assertEquals(more, {});
  const entries = Object.entries(hash);
  assertEquals([...ids].sort(), entries.map(([id]) => id).sort());
  assertEquals(count, entries.length);
  return entries.map(([id, info]) => [id, JSON.stringify(info)]);
}
