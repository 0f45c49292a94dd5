/**
 * The check of a signed publish, as somebody would write it who has read how
 * requests to the HTTP API are signed, and who has one app and one way to sign.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { APP } from "../peer.ts";

const TOLERANCE_S = 600;

/** Whether a publish is signed as the app that every peer serves. */
export function isSigned(url: URL, body: string): boolean {
  const query = url.searchParams;
  const digest = createHash("md5").update(body).digest("hex");
  const offS = Date.now() / 1_000 - Number(query.get("auth_timestamp"));
  if (
    query.get("auth_key") !== APP.key || query.get("auth_version") !== "1.0" ||
    query.get("body_md5") !== digest || !(Math.abs(offS) <= TOLERANCE_S)
  ) return false;
  const params = [...query].filter(([name]) => name !== "auth_signature")
    .sort(([a], [b]) => a < b ? -1 : 1)
    .map(([name, value]) => `${name}=${value}`).join("&");
  const hmac = createHmac("sha256", APP.secret)
    .update(`POST\n${url.pathname}\n${params}`).digest("hex");
  const expected = Buffer.from(hmac);
  const given = Buffer.from(query.get("auth_signature") ?? "");
  return given.length === expected.length && timingSafeEqual(given, expected);
}
