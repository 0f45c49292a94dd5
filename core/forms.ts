/**
 * The fields that a client posts to an auth endpoint. `pusher-js` posts a form;
 * clients that a program writes itself post JSON or multipart forms, too.
 *
 * @module
 */

import { decodeUtf8 } from "./http.ts";
import { isRefusal, Refusal } from "./limits.ts";
import { isObject, parseJson } from "./protocol.ts";

/**
 * Parses fields, or says why the body holds none. It goes by the body rather than
 * by its type: `fetch` declares JSON as `text/plain`, and some clients declare a
 * form as JSON.
 */
export async function parseFields(
  body: Uint8Array<ArrayBuffer>,
  contentType: string | null,
): Promise<URLSearchParams | Refusal> {
  if (/^\s*multipart\/form-data\b/i.test(contentType ?? "")) {
    return await parseMultipart(body, contentType ?? "");
  }
  const text = decodeUtf8(body);
  if (text === null) return new Refusal(400, "The body is not UTF-8");
  return text.trimStart().startsWith("{")
    ? parseJsonFields(text)
    : new URLSearchParams(text);
}

async function parseMultipart(
  body: Uint8Array<ArrayBuffer>,
  contentType: string,
): Promise<URLSearchParams | Refusal> {
  const headers = { "content-type": contentType };
  const params = new URLSearchParams();
  try {
    const form = await new Response(body, { headers }).formData();
    // A file cannot be the value of any field.
    for (const [name, value] of form) {
      if (typeof value === "string") params.append(name, value);
    }
  } catch {
    return new Refusal(400, "The body is not multipart/form-data, as declared");
  }
  return params;
}

/**
 * The fields of a JSON object, as a form has them: those of an array are repeated
 * as `name[]`, null is left out, and an object stays JSON.
 */
function parseJsonFields(text: string): URLSearchParams | Refusal {
  const fields = parseJson(text);
  if (!isObject(fields)) return new Refusal(400, "The body is not valid JSON");
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    const refusal = checkField(name, value);
    if (isRefusal(refusal)) return refusal;
    const list = Array.isArray(value);
    const listName = name.endsWith("[]") ? name : `${name}[]`;
    for (const item of list ? value : [value]) {
      if (item === null) continue;
      const plain = typeof item === "string" ? item : JSON.stringify(item);
      params.append(list ? listName : name, plain);
    }
  }
  return params;
}

/** Fields that name something must be strings: a number may have lost digits. */
function checkField(name: string, value: unknown): Refusal | null {
  const isList = name === "channel_name" || name === "channel_name[]";
  if (!isList && !NAMES.has(name)) return null;
  const items = isList && Array.isArray(value) ? value : [value];
  if (items.every((item) => typeof item === "string")) return null;
  const rule = isList
    ? "neither a string nor an array of strings"
    : "not a string";
  return new Refusal(400, `${name} is ${rule}`);
}

const NAMES: ReadonlySet<string> = new Set(["socket_id", "app_key", "app_id"]);
