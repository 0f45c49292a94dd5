/**
 * Opens the events of encrypted channels. The client loads it when a page first
 * subscribes to such a channel.
 *
 * @module
 */

/** Events of a channel that may wait for a new secret; more are dropped. */
const MAX_HELD_EVENTS = 1_000;

/** The part of `tweetnacl` that encrypted channels need. */
export interface Nacl {
  /** XSalsa20-Poly1305. */
  readonly secretbox: {
    /** Decrypts; null when the secret or the box is another one. */
    open(box: Uint8Array, nonce: Uint8Array, key: Uint8Array):
      | Uint8Array
      | null;
    /** Bytes of a secret. */
    readonly keyLength: number;
    /** Bytes of a nonce. */
    readonly nonceLength: number;
    /** Bytes that a box has more than its content. */
    readonly overheadLength: number;
  };
}

/** The part of a frame that matters here. */
interface EncryptedFrame {
  /** `ciphertext` and `nonce`, unless the peer sends something else. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data?: any;
  /** Where the event is in the channel's history. */
  offset?: number;
}

/** An event that the secret did not open, and the history that it belongs to. */
interface Held<Frame> {
  frame: Frame;
  epoch: string | undefined;
}

/** The part of a channel that matters here. */
interface EncryptedChannel {
  readonly name: string;
  readonly subscribed: boolean;
  readonly pusher: {
    readonly options: { nacl?: Nacl };
    readonly positions: Map<string, { epoch: string; offset: number }>;
  };
}

/** What a channel provides for its {@linkcode Opener}. */
export interface OpenerOwner<Frame> {
  /** The channel. */
  channel: EncryptedChannel;
  /** Takes an event that has been opened. */
  emit(frame: Frame): void;
  /** Asks for a permission, which brings a secret. */
  authorize(): Promise<unknown>;
  /** Hears what is dropped. */
  log(...message: unknown[]): void;
}

/** Opens the events of one encrypted channel. */
export class Opener<Frame extends EncryptedFrame> {
  readonly #owner: OpenerOwner<Frame>;
  readonly #secretbox: Nacl["secretbox"];
  #secret: Uint8Array = new Uint8Array();
  /** Events that wait for a new secret, which has been asked for. */
  #held: Held<Frame>[] = [];

  /** Made by the channel when it is first given a secret. */
  constructor(owner: OpenerOwner<Frame>) {
    this.#owner = owner;
    // The client creates no encrypted channel without it.
    this.#secretbox = owner.channel.pusher.options.nacl!.secretbox;
  }

  /**
   * Takes the secret of a permission.
   *
   * @throws {TypeError} when there is none.
   */
  accept({ shared_secret = "" }: { shared_secret?: string }): void {
    try {
      this.#secret = decodeBase64(shared_secret, this.#secretbox.keyLength);
    } catch (cause) {
      const { name } = this.#owner.channel;
      throw new TypeError(
        `Cannot subscribe to "${name}": no shared_secret in answer`,
        { cause },
      );
    }
  }

  /** Opens an event, with a new secret if need be. */
  take(frame: Frame): void {
    if (!this.#emitOpened(frame)) this.#retry(frame);
  }

  /** Forgets the events that wait for a secret: the connection is lost. */
  reset(): void {
    const { name, pusher: { positions } } = this.#owner.channel;
    const position = positions.get(name);
    const first = this.#held.find(({ frame, epoch }) =>
      frame.offset !== undefined && epoch === position?.epoch
    );
    // The server replays them after the reconnect, but those of another epoch.
    if (position && first?.frame.offset !== undefined) {
      positions.set(name, { ...position, offset: first.frame.offset - 1 });
    }
    this.#held = [];
  }

  /**
   * Accepts data with `ciphertext` and `nonce`, and drops what is anything else.
   * Returns false where another secret is needed.
   */
  #emitOpened(frame: Frame): boolean {
    const { data } = frame;
    const { nonceLength, overheadLength } = this.#secretbox;
    try {
      const content = this.#secretbox.open(
        decodeBase64(data.ciphertext, overheadLength),
        decodeBase64(data.nonce, nonceLength),
        this.#secret,
      );
      if (!content) return false;
      const text = new TextDecoder().decode(content);
      this.#owner.emit({ ...frame, data: decodeJson(text) });
    } catch (error) {
      this.#drop(error);
    }
    return true;
  }

  /** Gives an event one more try, with a new secret. They stay in order. */
  async #retry(frame: Frame): Promise<void> {
    const held = this.#held;
    const { channel, authorize, log } = this.#owner;
    const epoch = channel.pusher.positions.get(channel.name)?.epoch;
    if (held.length < MAX_HELD_EVENTS) held.push({ frame, epoch });
    if (held.length > 1) return;
    await authorize().catch((error) => log(String(error)));
    if (held !== this.#held) return;
    for (const waiting of held.splice(0)) {
      // A handler of the event before may have left the channel.
      if (!channel.subscribed || !this.#emitOpened(waiting.frame)) {
        this.#drop("");
      }
    }
  }

  #drop(reason: unknown): void {
    const { channel, log } = this.#owner;
    log("Event dropped", channel.name, String(reason));
  }
}

/** The bytes of a base64 text. Throws when there are fewer than needed. */
function decodeBase64(text: string, minBytes: number): Uint8Array {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  if (bytes.length >= minBytes) return bytes;
  throw new TypeError("too short");
}

/** The value of a JSON text; anything else is text as it is. */
function decodeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
