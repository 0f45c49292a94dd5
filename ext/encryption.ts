/**
 * End-to-end encrypted channels: events that the program triggers on a
 * `private-encrypted-` channel leave it in a NaCl secretbox, which only clients
 * with the channel's secret can open.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { encryption } from "@glitz/pusher/encryption";
 *
 * // Made once with `openssl rand -base64 32`, and kept like a password.
 * const masterKeyBase64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
 *
 * const pusher = new Pusher({
 *   encryption: encryption({ masterKeyBase64 }),
 *   authorize: (request, { channel }) =>
 *     channel === "private-encrypted-news" && request.headers.has("cookie"),
 * });
 * await pusher.trigger("private-encrypted-news", "create", { text: "hello" });
 * ```
 *
 * Encryption hides the data of events from everything between the program and the
 * page: proxies that end TLS, the backplane, a hosted server that relays the
 * events. It does not hide the names of channels and events, nor events that
 * clients send to each other. A client keeps the secret of a channel, and all
 * secrets follow from the master key. So change the key to shut out a client that
 * was admitted before, and after the key has leaked.
 *
 * It costs one dependency, `@noble/ciphers`, and some hundredths of a millisecond
 * per event.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { secretbox } from "npm:@noble/ciphers@2.4.0/salsa.js";
import {
  copyOptions,
  failSecret,
  type Field,
  objectOf,
} from "../core/checks.ts";
import type { Encryption } from "../mod.ts";

/** Options of {@linkcode encryption}. */
export interface EncryptionOptions {
  /** The key from which the secrets of all channels follow: 32 bytes in base64. */
  masterKeyBase64: string;
}

/** 32 bytes in the standard alphabet and with padding, as for the official SDK. */
const MASTER_KEY = /^[A-Za-z0-9+/]{43}=$/;

const checkOptions = objectOf<EncryptionOptions>({
  masterKeyBase64: checkMasterKey,
}, ["masterKeyBase64"]);

function checkMasterKey(value: unknown, field: Field): void {
  if (typeof value === "string" && MASTER_KEY.test(value)) return;
  const rule = "be 32 bytes in base64, which are 43 characters and one =";
  failSecret(value, field, rule);
}

/** The length of XSalsa20's nonce. */
const NONCE_BYTES = 24;

/**
 * Secrets in the cache, of the channels used last; each takes about 200 bytes. A
 * secret that is not there is derived again, which only takes longer.
 */
const MAX_SECRETS = 1_000;

/**
 * Encrypts with a master key; for {@linkcode PusherOptions.encryption}. Stock
 * clients can read the events, and so can official SDKs with the same key.
 *
 * Every event has a nonce of its own, 24 random bytes, so several programs may
 * share a key. Errors never contain the key.
 *
 * @example
 * ```ts
 * import { encryption } from "@glitz/pusher/encryption";
 * import { assertEquals } from "@std/assert";
 *
 * const { sharedSecret } = encryption({
 *   masterKeyBase64: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
 * });
 * assertEquals(
 *   sharedSecret("private-encrypted-foobar"),
 *   "g3Au6SZ+UCU+IMfFsFva0rq+Gi4tzSHR6WCcWZbS9sY=",
 * );
 * ```
 *
 * @param options The master key.
 * @returns Two functions, which work without their object, too.
 * @throws {TypeError} If an option is unknown, or the key is not 32 bytes in
 * base64. The functions throw it if a text is not well-formed Unicode.
 */
export function encryption(options: EncryptionOptions): Encryption {
  const own = copyOptions(options, ["masterKeyBase64"]);
  checkOptions(own, { subject: "Cannot create an encryption", name: "" });
  const masterKey = Buffer.from(own.masterKeyBase64, "base64");
  // In the order of their last use.
  const secrets = new Map<string, Uint8Array>();

  const secretOf = (channel: string): Uint8Array => {
    checkText(channel, "the channel's name");
    const secret = secrets.get(channel) ??
      createHash("sha256").update(channel, "utf8").update(masterKey).digest();
    secrets.delete(channel);
    secrets.set(channel, secret);
    if (secrets.size > MAX_SECRETS) {
      for (const oldest of secrets.keys()) {
        secrets.delete(oldest);
        break;
      }
    }
    return secret;
  };

  return {
    encrypt(channel, json) {
      checkText(json, "the data");
      const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
      const box = secretbox(secretOf(channel), nonce).seal(Buffer.from(json));
      return JSON.stringify({
        nonce: base64(nonce),
        ciphertext: base64(box),
      });
    },
    sharedSecret: (channel) => base64(secretOf(channel)),
  };
}

/**
 * Throws for lone surrogates. As bytes they all become the same character: two
 * channels would share a secret, and the data would arrive changed.
 */
function checkText(text: string, what: string): void {
  if (typeof text === "string" && text.isWellFormed()) return;
  throw new TypeError(
    `Cannot encrypt: ${what} is not a string of well-formed Unicode`,
  );
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    .toString("base64");
}
