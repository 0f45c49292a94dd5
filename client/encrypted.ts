/**
 * Decrypts the events of encrypted channels. The client loads this module when a
 * page first subscribes to such a channel.
 *
 * @module
 */

/** Number of events of a channel that may wait for a new secret. */
const MAX_HELD_EVENTS = 1_000;

/** Names of events of the protocol, which are not encrypted. */
export const PROTOCOL_NAME = /^pusher(_internal)?:/;

/** The part of `tweetnacl` that encrypted channels need. */
export interface Nacl {
  /** XSalsa20-Poly1305. */
  readonly secretbox: {
    /** Decrypts; null if the box was not made with this secret and nonce. */
    open(box: Uint8Array, nonce: Uint8Array, key: Uint8Array):
      | Uint8Array
      | null;
    /** Bytes of a secret. */
    readonly keyLength: number;
    /** Bytes of a nonce. */
    readonly nonceLength: number;
    /** Bytes by which a box is longer than its content. */
    readonly overheadLength: number;
  };
}

/** The part of a frame that matters here. */
interface EncryptedFrame {
  event: string;
  /** The sending member. */
  user_id?: string;
  /** `ciphertext` and `nonce`, unless the peer sends something else. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data?: any;
  /** Where the event is in the channel's history. */
  offset?: number;
}

/** An event that the secret did not decrypt, and the epoch of its history. */
interface Held {
  frame: EncryptedFrame;
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
  emit(event: string, data: unknown, metadata: { user_id?: string }): unknown;
  handleEvent(frame: EncryptedFrame): void;
  disconnect(): void;
}

/** Logs a message. */
type Log = (...message: unknown[]) => void;

const decryptors = new WeakMap<EncryptedChannel, Decryptor>();

/**
 * Takes the secret of an authorization. With the first secret the channel begins to
 * decrypt its events.
 *
 * @param authorize Gets another authorization, and passes it to this function.
 * @throws {TypeError} if there is no secret.
 */
export function decrypt(
  channel: EncryptedChannel,
  answer: { shared_secret?: string },
  authorize: () => Promise<unknown>,
  log: Log,
): void {
  let decryptor = decryptors.get(channel);
  if (!decryptor) {
    decryptor = new Decryptor(channel, authorize, log);
    decryptors.set(channel, decryptor);
  }
  decryptor.accept(answer);
}

/** Decrypts the events of one encrypted channel, in place of methods of the channel. */
class Decryptor {
  readonly #channel: EncryptedChannel;
  readonly #authorize: () => Promise<unknown>;
  readonly #log: Log;
  readonly #secretbox: Nacl["secretbox"];
  #secret: Uint8Array = new Uint8Array();
  /** Events that wait for a new secret, which has been asked for. */
  #held: Held[] = [];

  constructor(
    channel: EncryptedChannel,
    authorize: () => Promise<unknown>,
    log: Log,
  ) {
    this.#channel = channel;
    this.#authorize = authorize;
    this.#log = log;
    // The client creates no encrypted channel without `nacl`.
    this.#secretbox = channel.pusher.options.nacl!.secretbox;
    const { handleEvent, disconnect } = channel;
    channel.handleEvent = (frame) => {
      if (PROTOCOL_NAME.test(frame.event)) handleEvent.call(channel, frame);
      else this.#take(frame);
    };
    channel.disconnect = () => {
      disconnect.call(channel);
      this.#reset();
    };
  }

  /**
   * Takes the secret of an authorization.
   *
   * @throws {TypeError} if there is none.
   */
  accept({ shared_secret = "" }: { shared_secret?: string }): void {
    try {
      this.#secret = decodeBase64(shared_secret, this.#secretbox.keyLength);
    } catch (cause) {
      const { name } = this.#channel;
      throw new TypeError(
        `Cannot subscribe to "${name}": no shared_secret in answer`,
        { cause },
      );
    }
  }

  /** Decrypts an event, if necessary with a new secret. */
  #take(frame: EncryptedFrame): void {
    if (!this.#emitDecrypted(frame)) this.#retry(frame);
  }

  /** Drops the events that wait for a secret, when the connection is lost. */
  #reset(): void {
    const { name, pusher: { positions } } = this.#channel;
    const position = positions.get(name);
    const first = this.#held.find(({ frame, epoch }) =>
      frame.offset !== undefined && epoch === position?.epoch
    );
    // The server replays these events, but no events of an earlier epoch.
    if (position && first?.frame.offset !== undefined) {
      positions.set(name, { ...position, offset: first.frame.offset - 1 });
    }
    this.#held = [];
  }

  /**
   * Accepts data with `ciphertext` and `nonce`, and drops any other event. Returns
   * false if the event needs another secret.
   */
  #emitDecrypted(frame: EncryptedFrame): boolean {
    const { event, data, user_id } = frame;
    const { nonceLength, overheadLength } = this.#secretbox;
    try {
      const content = this.#secretbox.open(
        decodeBase64(data.ciphertext, overheadLength),
        decodeBase64(data.nonce, nonceLength),
        this.#secret,
      );
      if (!content) return false;
      const text = new TextDecoder().decode(content);
      const metadata = user_id === undefined ? {} : { user_id };
      this.#channel.emit(event, decodeJson(text), metadata);
    } catch (error) {
      this.#drop(error);
    }
    return true;
  }

  /** Tries an event once more with a new secret. Waiting events stay in order. */
  async #retry(frame: EncryptedFrame): Promise<void> {
    const held = this.#held;
    const channel = this.#channel;
    const epoch = channel.pusher.positions.get(channel.name)?.epoch;
    if (held.length < MAX_HELD_EVENTS) held.push({ frame, epoch });
    if (held.length > 1) return;
    await this.#authorize().catch((error) => this.#log(String(error)));
    if (held !== this.#held) return;
    for (const waiting of held.splice(0)) {
      // The handler of an earlier event may have unsubscribed.
      if (!channel.subscribed || !this.#emitDecrypted(waiting.frame)) {
        this.#drop("");
      }
    }
  }

  #drop(reason: unknown): void {
    this.#log("Event dropped", this.#channel.name, String(reason));
  }
}

/** The bytes of a base64 text. Throws if there are fewer than `minBytes`. */
function decodeBase64(text: string, minBytes: number): Uint8Array {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  if (bytes.length >= minBytes) return bytes;
  throw new TypeError("too short");
}

/** The value of a JSON text, else the text itself. */
// deno-lint-ignore no-explicit-any -- peers send any JSON
export function decodeJson(text: string): any {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
