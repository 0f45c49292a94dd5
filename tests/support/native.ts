/**
 * A client that speaks the protocol over TCP and keeps alive as the libraries for
 * phones and desktops do: it answers WebSocket pings, and never `pusher:ping`.
 *
 * @module
 */
import { parseFrame, type TestServer } from "./server.ts";
import {
  type App,
  channelAuth,
  dataOf,
  type Frame,
  type RawClient,
  wireFrame,
} from "./wire.ts";

/** How a native client connects. */
export interface NativeInit {
  /** What it calls itself. @default {"pusher-websocket-swift"} */
  client?: string;
  /** What stands before `/app/`. */
  path?: string;
  app?: App;
  /** Whether it answers WebSocket pings and closes. @default {true} */
  answers?: boolean;
}

/** A connection of a native client. */
export class NativeClient implements Disposable {
  readonly raw: RawClient;
  readonly app: App;
  socketId = "";
  /** WebSocket pings that have come. */
  pings = 0;
  /** Frames that have come. */
  readonly frames: Frame[] = [];
  /** The code that the server closed with, once it has. */
  code: number | null = null;
  isOver = false;
  readonly #answers: boolean;

  private constructor(raw: RawClient, app: App, answers: boolean) {
    this.raw = raw;
    this.app = app;
    this.#answers = answers;
  }

  static async connect(
    server: TestServer,
    init: NativeInit = {},
  ): Promise<NativeClient> {
    const {
      client = "pusher-websocket-swift",
      path = "",
      app = server.app,
      answers = true,
    } = init;
    const { pathname } = new URL(server.url);
    const prefix = pathname.replace(/\/$/, "") + path;
    const raw = await server.raw();
    await raw.upgrade(`${prefix}/app/${app.key}?client=${client}&protocol=7`);
    const native = new NativeClient(raw, app, answers);
    const established = await native.next("pusher:connection_established");
    native.socketId = dataOf(established).socket_id;
    return native;
  }

  /** How often an event has come. */
  count(event: string): number {
    return this.frames.filter((frame) => frame.event === event).length;
  }

  /** Takes one frame of the WebSocket; false when the connection is over. */
  async take(): Promise<boolean> {
    const frame = await this.raw.readFrame();
    this.isOver ||= frame === null;
    if (frame === null) return false;
    if (frame.opcode === 1) {
      this.frames.push(parseFrame(new TextDecoder().decode(frame.body)));
    } else if (frame.opcode === 9) {
      this.pings++;
      if (this.#answers) {
        await this.raw.write(wireFrame(frame.body, { first: 0x8a }));
      }
    } else if (frame.opcode === 8) {
      const [high = 0, low = 0] = frame.body;
      this.code = high * 256 + low;
      if (this.#answers) {
        await this.raw.write(wireFrame(frame.body, { first: 0x88 }));
      }
    }
    return true;
  }

  /** Takes what comes until something is so, or the connection is over. */
  async until(isDone: () => boolean): Promise<void> {
    while (!isDone() && await this.take());
  }

  /** Takes what comes, up to the next frame of an event. */
  async next(event: string): Promise<Frame> {
    const { length } = this.frames;
    const find = () =>
      this.frames.find((one, i) => i >= length && one.event === event);
    await this.until(() => find() !== undefined);
    const frame = find();
    if (frame === undefined) throw new Error(`Cannot read on: no ${event}`);
    return frame;
  }

  /** Subscribes, and takes the confirmation. */
  async join(channel: string, member?: unknown): Promise<void> {
    const channelData = member === undefined
      ? undefined
      : JSON.stringify(member);
    const auth = channelAuth(this.app, this.socketId, channel, channelData);
    await this.raw.send({
      event: "pusher:subscribe",
      data: {
        channel,
        auth,
        ...(channelData !== undefined && { channel_data: channelData }),
      },
    });
    await this.next("pusher_internal:subscription_succeeded");
  }

  [Symbol.dispose](): void {
    this.raw.drop();
  }
}
