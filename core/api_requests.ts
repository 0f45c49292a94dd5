/**
 * Checks of requests to the HTTP API: their signature and their body. The signature
 * covers the digest of the body.
 *
 * @module
 */

import { createHash } from "node:crypto";
import {
  type BodyFault,
  type BodyRules,
  readBody,
  refuseBody,
} from "./bodies.ts";
import { decodeUtf8 } from "./http.ts";
import { type Limits, overLimit, quote, Refusal } from "./limits.ts";
import type { Query } from "./parameters.ts";
import { isObject, parseJson } from "./protocol.ts";
import { joinInfo } from "./queries.ts";
import { signedPaths } from "./routes.ts";
import {
  type Credentials,
  decodePart,
  equalsInConstantTime,
  requestTexts,
  sentText,
  signWith,
} from "./signatures.ts";

/**
 * Checks everything about a request except its body.
 *
 * @param credentials The keys of the app, any of which may sign.
 * @param prefix The server's own path.
 * @param query Names in lower case.
 * @param nowMs The wall clock.
 */
export function checkRequestSignature(
  credentials: readonly Credentials[],
  method: string,
  url: URL,
  prefix: string,
  query: Query,
  nowMs: number,
): Refusal | null {
  // Bytes that are no UTF-8 all become the same character, so that two requests would
  // have one signature.
  for (const run of escapedRuns(url.search)) {
    if (decodePart(run) === null) {
      return new Refusal(401, "The query is not well-formed UTF-8");
    }
  }
  const given = query.get("auth_key");
  const signing = credentials.find(({ key }) => key === given);
  if (signing === undefined) {
    const rule = credentials.length === 1
      ? "be the key of the app"
      : "be a key of the app";
    return refuseParameter("auth_key", given, rule);
  }
  const version = query.get("auth_version");
  if (version !== "1.0") {
    return refuseParameter("auth_version", version, 'be "1.0"');
  }
  const timestamp = checkTimestamp(query.get("auth_timestamp"), nowMs);
  if (timestamp !== null) return timestamp;
  const signature = query.get("auth_signature");
  if (signature === null) {
    return refuseParameter("auth_signature", signature, "sign the request");
  }
  const isSigned = (text: string) =>
    equalsInConstantTime(signWith(signing, text), signature);
  const sent = sentText(method, url);
  if (sent !== null && isSigned(sent)) return null;
  const paths = [...signedPaths(url.pathname, prefix)];
  for (const text of requestTexts(method, paths, url.searchParams)) {
    if (text !== sent && isSigned(text)) return null;
  }
  return refuseSignature(method, paths[0]!, url.searchParams);
}

function escapedRuns(query: string): readonly string[] {
  if (!query.includes("%")) return [];
  return query.match(/(?:%[0-9a-f]{2})+/gi) ?? [];
}

/** Refuses a request for a parameter of its signature. */
function refuseParameter(
  name: string,
  value: string | null,
  rule: string,
): Refusal {
  const found = value === null ? "is missing" : `is ${quote(value)}`;
  return new Refusal(401, `${name} ${found}, and must ${rule}`);
}

/** Refuses a request that was signed at another time than the server's. */
function checkTimestamp(value: string | null, nowMs: number): Refusal | null {
  const now = Math.floor(nowMs / 1000);
  const seconds = /^\d{1,15}$/.test(value ?? "") ? Number(value) : NaN;
  if (Math.abs(now - seconds) <= TIMESTAMP_TOLERANCE_S) return null;
  const rule =
    `be in seconds, and within ${TIMESTAMP_TOLERANCE_S} s of the server's time, ${now}`;
  const { error } = refuseParameter("auth_timestamp", value, rule);
  const off = seconds - now;
  // More than that is no clock that goes wrong, but milliseconds or no time at all.
  if (!(Math.abs(off) < now / 2)) return new Refusal(401, error);
  const side = off < 0 ? "behind" : "ahead";
  const cause = `the clock of the backend, or the server's, is ${
    Math.abs(off)
  } s ${side}`;
  return new Refusal(401, `${error}: ${cause}`);
}

const TIMESTAMP_TOLERANCE_S = 600;

/**
 * Says which text should have been signed. It holds nothing that the request does
 * not: neither the secret nor a signature.
 */
function refuseSignature(
  method: string,
  path: string,
  params: URLSearchParams,
): Refusal {
  const [text = ""] = requestTexts(method, [path], params);
  const shown = text.length > SHOWN_TEXT_UNITS
    ? `${text.slice(0, SHOWN_TEXT_UNITS)}…`
    : text;
  return new Refusal(
    401,
    `auth_signature must be the HMAC-SHA256, in lower-case hex, of ${
      JSON.stringify(shown)
    } with the app's secret: compare the secret and this text with the backend's`,
  );
}

// Enough for the parameters of any SDK.
const SHOWN_TEXT_UNITS = 1_000;

/** Reads the body, checks it against the signed digest and parses it. */
export function readApiBody(
  request: Request,
  query: Query,
  limits: Limits,
  rules: BodyRules,
): Promise<Record<string, unknown> | Refusal> {
  return readBody(request, limits.bodyBytes, rules)
    .then((bytes) => parseBody(bytes, query, limits, rules));
}

function parseBody(
  bytes: Uint8Array<ArrayBuffer> | BodyFault,
  query: Query,
  limits: Limits,
  rules: BodyRules,
): Record<string, unknown> | Refusal {
  if (bytes === "too large") {
    return overLimit("bodyBytes", limits, "The body is too large", 413);
  }
  if (typeof bytes === "string") return refuseBody(bytes, rules);
  const digest = query.get("body_md5");
  if (bytes.length === 0) {
    return digest === null || digest === EMPTY_MD5
      ? bodyFromQuery(query)
      : refuseParameter("body_md5", digest, "be missing: the body is empty");
  }
  if (digest !== createHash("md5").update(bytes).digest("hex")) {
    const rule =
      `be the MD5 digest of the body, which has ${bytes.length} bytes`;
    return refuseParameter("body_md5", digest, rule);
  }
  const body = parseJson(decodeUtf8(bytes) ?? "");
  if (!isObject(body)) {
    return new Refusal(400, "The body is not a JSON object");
  }
  // Most requests have nothing else in the query, and nothing is looked for there.
  return query.size === SIGNATURE_PARAMETERS
    ? body
    : { ...missingFields(body, query), ...body };
}

/** `body_md5` and the four parameters whose names begin with `auth_`. */
const SIGNATURE_PARAMETERS = 5;

/**
 * The fields of an event that a request has in its query beside its body, as SDKs
 * do that send `{}` with every request. The signature covers both; where both name
 * a field, the body wins.
 */
function missingFields(
  body: Record<string, unknown>,
  query: Query,
): Record<string, unknown> {
  const fields = Object.entries(bodyFromQuery(query)).filter(
    ([name, value]) => EVENT_FIELDS.has(name) && value !== undefined,
  );
  const { channel, channels } = body;
  if ((channel ?? channels ?? null) === null) return Object.fromEntries(fields);
  return Object.fromEntries(
    fields.filter(([name]) => !name.startsWith("channel")),
  );
}

const EVENT_FIELDS: ReadonlySet<string> = new Set(
  ["name", "data", "channel", "channels", "socket_id", "info"],
);

const EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e";

/** A request without a body may have its fields in the query. */
function bodyFromQuery(query: Query): Record<string, unknown> {
  const channels = [...query]
    .filter(([name]) => /^channels\[\d*\]$/.test(name))
    .map(([, channel]) => channel);
  return {
    ...Object.fromEntries(joinInfo(query)),
    channels: channels.length > 0 ? channels : undefined,
  };
}
