/**
 * The joint of transports: how frames reach a client, and come from it.
 *
 * @module
 */

import { clipReason } from "./protocol.ts";

/**
 * How frames reach a client. A native `WebSocket` is one as it stands; other
 * ways to a client come with {@linkcode Pusher.open}.
 */
export interface Transport {
  /** What the transport is called in {@linkcode Stats}. @default {"ws"} */
  readonly name?: string;
  /**
   * Bytes handed to `send` that the client has not taken yet. Above about 64 KiB, or
   * 64 frames, the server calls `send` only as this becomes less.
   */
  readonly bufferedAmount: number;
  /** Sends one text frame. */
  send(frame: string): void;
  /**
   * Ends the connection with a close code and a reason of at most 123 bytes, after
   * the frames that were sent before. The {@linkcode Peer} hears of it afterwards, when the transport has closed.
   */
  close(code: number, reason: string): void;
}

/** The server's end of a {@linkcode Transport}: what comes from the client goes here. */
export interface Peer {
  /** Takes one frame: text, or anything else for a binary frame. */
  receive(frame: unknown): void;
  /** Says that the client is alive, where that is known without a frame. */
  heard(): void;
  /** Says that the transport has closed. A second call does nothing. */
  closed(code: number): void;
}

/** Closes a transport, which may be closed already. */
export function closeTransport(
  transport: Transport,
  code: number,
  reason: string,
): void {
  try {
    transport.close(code, clipReason(reason));
  } catch {
    // There is nothing left to close.
  }
}
