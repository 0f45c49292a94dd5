/**
 * Checks of requests to the HTTP API: their signature and their body. The signature
 * covers the digest of the body.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { type BodyRules, readBody, refuseBody } from "./bodies.ts";
import { decodeUtf8 } from "./http.ts";
import { type Limits, overLimit, Refusal } from "./limits.ts";
import { isObject, parseJson } from "./protocol.ts";
import { joinInfo } from "./queries.ts";
import { signedPaths } from "./routes.ts";
import {
  type Credentials,
  decodePart,
  equalsInConstantTime,
  hmac,
  requestTexts,
} from "./signatures.ts";

/**
 * Checks everything about a request except its body.
 *
 * @param prefix The server's own path.
 * @param query Names in lower case.
 * @param nowMs The wall clock.
 */
export function checkRequestSignature(
  { key, secret }: Credentials,
  method: string,
  url: URL,
  prefix: string,
  query: URLSearchParams,
  nowMs: number,
): Refusal | null {
  // Bytes that are no UTF-8 all become the same character, so that two requests would
  // have one signature.
  for (const run of url.search.match(/(?:%[0-9a-f]{2})+/gi) ?? []) {
    if (decodePart(run) === null) {
      return new Refusal(401, "The query is not well-formed UTF-8");
    }
  }
  if (query.get("auth_key") !== key) {
    return new Refusal(401, "auth_key is not the key of the app");
  }
  if (query.get("auth_version") !== "1.0") {
    return new Refusal(401, "auth_version is not 1.0");
  }
  const timestamp = query.get("auth_timestamp") ?? "";
  const now = Math.floor(nowMs / 1000);
  if (
    !/^\d{1,15}$/.test(timestamp) ||
    Math.abs(now - Number(timestamp)) > TIMESTAMP_TOLERANCE_S
  ) {
    return new Refusal(
      401,
      `auth_timestamp is not within ${TIMESTAMP_TOLERANCE_S} s of the server's time, ${now}`,
    );
  }
  const signature = query.get("auth_signature") ?? "";
  const paths = [...signedPaths(url.pathname, prefix)];
  for (const text of requestTexts(method, paths, url.searchParams)) {
    if (equalsInConstantTime(hmac(secret, text), signature)) return null;
  }
  return new Refusal(401, "auth_signature does not match the request");
}

const TIMESTAMP_TOLERANCE_S = 600;

/** Reads the body, checks it against the signed digest and parses it. */
export async function readApiBody(
  request: Request,
  query: URLSearchParams,
  limits: Limits,
  rules: BodyRules,
): Promise<Record<string, unknown> | Refusal> {
  const bytes = await readBody(request, limits.bodyBytes, rules);
  if (bytes === "too large") {
    return overLimit("bodyBytes", limits, "The body is too large", 413);
  }
  if (typeof bytes === "string") return refuseBody(bytes, rules);
  const digest = query.get("body_md5");
  if (bytes.length === 0) {
    return digest === null || digest === EMPTY_MD5
      ? bodyFromQuery(query)
      : new Refusal(401, "body_md5 is not that of an empty body");
  }
  if (digest !== createHash("md5").update(bytes).digest("hex")) {
    return new Refusal(401, "body_md5 is not that of the body");
  }
  const body = parseJson(decodeUtf8(bytes) ?? "");
  return isObject(body)
    ? body
    : new Refusal(400, "The body is not a JSON object");
}

const EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e";

/** A request without a body may have its fields in the query. */
function bodyFromQuery(query: URLSearchParams): Record<string, unknown> {
  const channels = [...query]
    .filter(([name]) => /^channels\[\d*\]$/.test(name))
    .map(([, channel]) => channel);
  return {
    ...Object.fromEntries(joinInfo(query)),
    channels: channels.length > 0 ? channels : undefined,
  };
}
