/**
 * Messages as they go over topics and stand in streams and keys: a header in JSON, a
 * line break, and the data as it is.
 *
 * @module
 */

import type { Message, Position } from "../../core/backplane.ts";

/** A message, and how the members of its channel change with it. */
export interface Sent {
  readonly message: Message;
  /** The user who has come with it. */
  readonly added?: string | undefined;
  /** The `user_info` of that user as JSON text. */
  readonly userInfo?: string | undefined;
  /** The user who has gone with it. */
  readonly removed?: string | undefined;
}

/** A {@linkcode Sent} on its topic. */
export interface Placed extends Sent {
  readonly position: Position;
}

/** The fields of a header. Short, as each message has them. */
interface Header {
  /** Event. */
  e: string;
  /** User id of the sender. */
  u?: string | undefined;
  /** The socket that is left out. */
  x?: string | undefined;
  /** Control. */
  k?: Message["control"];
  /** Logged. */
  l?: 1 | undefined;
  /** User added. */
  a?: string | undefined;
  /** Information on that user. */
  i?: string | undefined;
  /** User removed. */
  r?: string | undefined;
}

export function encodeSent(sent: Sent): string {
  const { message, added, userInfo, removed } = sent;
  const { event, data, userId, exceptSocketId, logged, control } = message;
  const header: Header = {
    e: event,
    u: userId,
    x: exceptSocketId || undefined,
    k: control,
    l: logged ? 1 : undefined,
    a: added,
    i: userInfo,
    r: removed,
  };
  const text = JSON.stringify(header);
  return data === undefined ? text : `${text}\n${data}`;
}

export function decodeSent(text: string): Sent {
  // JSON has no line break of its own.
  const end = text.indexOf("\n");
  const header: Header = JSON.parse(end < 0 ? text : text.slice(0, end));
  const message: Message = {
    event: header.e,
    ...(end >= 0 && { data: text.slice(end + 1) }),
    ...(header.u !== undefined && { userId: header.u }),
    ...(header.x !== undefined && { exceptSocketId: header.x }),
    ...(header.k !== undefined && { control: header.k }),
    ...(header.l !== undefined && { logged: true }),
  };
  return {
    message,
    added: header.a,
    userInfo: header.i,
    removed: header.r,
  };
}

/** Reads `epoch offset message`; the epoch is empty where there is no position. */
export function decodePlaced(text: string): Placed {
  const first = text.indexOf(" ");
  const second = text.indexOf(" ", first + 1);
  const position = {
    epoch: text.slice(0, first),
    offset: Number(text.slice(first + 1, second)),
  };
  return { ...decodeSent(text.slice(second + 1)), position };
}
