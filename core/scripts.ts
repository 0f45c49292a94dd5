/**
 * Scripts as browsers get them: compressed as the client accepts it, with an ETag for
 * each coding.
 *
 * A script is a start that never changes, and an end that contains the host, which the
 * client chooses. Only the start is compressed, once for each coding, and the end is
 * appended to it. So requests with ever new hosts cost no compression and no memory.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  brotliCompressSync,
  constants,
  crc32,
  deflateRawSync,
} from "node:zlib";
import { refuse, refuseMethod } from "./http.ts";
import { Refusal } from "./limits.ts";

// ---- Codings ----------------------------------------------------------------

/** How a body is coded. */
export type Coding = "br" | "gzip" | "identity";

/**
 * The coding that an `accept-encoding` header prefers; null if it accepts none of them.
 * See RFC 9110, section 12.5.3.
 */
export function chooseCoding(header: string | null): Coding | null {
  const weights = parseWeights(header ?? "");
  const others = weights.get("*");
  const accepted: [Coding, number][] = [
    ["br", weights.get("br") ?? others ?? 0],
    ["gzip", weights.get("gzip") ?? weights.get("x-gzip") ?? others ?? 0],
    ["identity", weights.get("identity") ?? others ?? UNNAMED_WEIGHT],
  ];
  // The sort is stable: among equals the smallest script comes first.
  const [best] = accepted.filter(([, weight]) => weight > 0)
    .sort(([, a], [, b]) => b - a);
  return best?.[0] ?? null;
}

/**
 * Identity is accepted unless it is refused, but after each coding that is named.
 * A header can give no smaller weight, as it may have three decimals only.
 */
const UNNAMED_WEIGHT = 0.000_1;

/** The weight of each coding that a header names; malformed items are ignored. */
function parseWeights(header: string): Map<string, number> {
  const weights = new Map<string, number>();
  for (const item of header.toLowerCase().split(",")) {
    const [, name, weight = "1"] = WEIGHTED.exec(item) ?? [];
    if (name !== undefined) weights.set(name, Number(weight));
  }
  return weights;
}

/** A coding, and its weight. */
const WEIGHTED =
  /^\s*([\w*.-]+)\s*(?:;\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?$/;

/** The start of a script, which is the same for all clients and never changes. */
export class ScriptStart {
  readonly #text: string;
  /** The start in each coding that was asked for, so that more can follow. */
  readonly #parts = new Map<Coding, Buffer>();
  #checksum = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Encodes the script that has this start. */
  encode(coding: Coding, end: string): Uint8Array<ArrayBuffer> {
    const plain = this.#part("identity");
    const tail = Buffer.from(end);
    if (coding === "identity") return Buffer.concat([plain, tail]);
    const start = this.#part(coding);
    if (coding === "br") return Buffer.concat([start, ...storeBrotli(tail)]);
    this.#checksum ||= crc32(plain);
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(crc32(tail, this.#checksum), 0);
    trailer.writeUInt32LE(plain.length + tail.length, 4);
    return Buffer.concat([GZIP_HEADER, start, deflateRawSync(tail), trailer]);
  }

  #part(coding: Coding): Buffer {
    const known = this.#parts.get(coding);
    if (known !== undefined) return known;
    const part = coding === "identity"
      ? Buffer.from(this.#text)
      : COMPRESS[coding](this.#part("identity"));
    this.#parts.set(coding, part);
    return part;
  }
}

/**
 * Compresses a start, and ends it at a byte without ending the stream. The runtime
 * compresses in the thread of the program, even where it returns a promise. So the
 * quality of Brotli is one that takes a few milliseconds; the best would take 35 for
 * 6 percent less.
 */
const COMPRESS = Object.freeze({
  br: (plain: Buffer): Buffer =>
    brotliCompressSync(plain, {
      finishFlush: constants.BROTLI_OPERATION_FLUSH,
      params: {
        [constants.BROTLI_PARAM_QUALITY]: 6,
        [constants.BROTLI_PARAM_SIZE_HINT]: plain.length,
      },
    }),
  gzip: (plain: Buffer): Buffer =>
    deflateRawSync(plain, {
      level: 9,
      finishFlush: constants.Z_SYNC_FLUSH,
    }),
});

/** RFC 1952, section 2.3: deflate, no flags, no time, best compression, no system. */
const GZIP_HEADER = Buffer.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff);

/**
 * The end of a Brotli stream that contains bytes as they are: RFC 7932, section 9.2.
 * Compressed bytes would depend on all that comes before them.
 */
function* storeBrotli(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += MAX_STORED_BYTES) {
    const stored = bytes.subarray(at, at + MAX_STORED_BYTES);
    // One bit 0: not the last block. Two bits 0: the length has four nibbles. The
    // length less one. One bit 1: not compressed. The rest of the byte is empty.
    const header = (stored.length - 1) << 3 | 1 << 19;
    yield Buffer.of(header & 0xff, header >> 8 & 0xff, header >> 16);
    yield stored;
  }
  // Two bits 1: the last block, and empty.
  yield Buffer.of(0b11);
}

/** A length of four nibbles. */
const MAX_STORED_BYTES = 65_536;

// ---- Answers ----------------------------------------------------------------

/** A script to serve. */
export interface Script {
  /** What all clients get alike. */
  readonly start: ScriptStart;
  /** What follows it for this client. */
  readonly end: string;
  /** Changes with every change of the script; the ETags begin with it. */
  readonly tag: string;
}

/**
 * Serves a script, which browsers cache for five minutes and then revalidate. As it
 * names its coding, neither the runtime nor a proxy compresses it again. Ranges are
 * not served: a request for one gets the whole script.
 */
export function serveScript(
  request: Request,
  { start, end, tag }: Script,
): Response {
  if (request.method !== "GET" && request.method !== "HEAD") {
    return refuseMethod("GET, HEAD");
  }
  const coding = chooseCoding(request.headers.get("accept-encoding"));
  if (coding === null) return refuse(NO_CODING, VARY);
  const etag = coding === "identity" ? `"${tag}"` : `"${tag}-${coding}"`;
  const headers: Record<string, string> = {
    ...VARY,
    "content-type": "text/javascript; charset=utf-8",
    "cache-control": "public, max-age=300",
    "etag": etag,
    "x-content-type-options": "nosniff",
    // Browsers fetch module scripts of other origins with CORS.
    "access-control-allow-origin": "*",
  };
  if (matchesEtag(request.headers.get("if-none-match"), etag)) {
    return new Response(null, { status: 304, headers });
  }
  const body = start.encode(coding, end);
  headers["content-length"] = String(body.length);
  if (coding !== "identity") headers["content-encoding"] = coding;
  return new Response(request.method === "HEAD" ? null : body, { headers });
}

/** A cache must not give a client a coding that another client has asked for. */
const VARY = Object.freeze({ "vary": "accept-encoding" });

const NO_CODING = Object.freeze(
  new Refusal(
    406,
    "The script is served with the codings br, gzip and identity, and " +
      "accept-encoding refuses all of them",
  ),
);

/** Whether an `if-none-match` header names the version that is served. */
function matchesEtag(header: string | null, etag: string): boolean {
  return header !== null && header.split(",").some((candidate) => {
    const tag = candidate.trim().replace(/^W\//, "");
    return tag === "*" || tag === etag;
  });
}
