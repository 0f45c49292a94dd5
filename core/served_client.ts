/**
 * The browser client as the server serves it: the bundle, and the configuration that
 * makes it ready to use.
 *
 * @module
 */

import { createHash } from "node:crypto";
import {
  CLIENT_BUNDLE,
  CLIENT_ETAG,
  CLIENT_FALLBACK_BUNDLE,
  CLIENT_FALLBACK_ETAG,
  CLIENT_FALLBACK_NAMES,
} from "../client_bundle.ts";
import { escapeUnit } from "./http.ts";
import { ScriptStart, serveScript } from "./scripts.ts";

// With `full` a script contains all that it would load when needed.
const CLASSIC = scriptStart(`(()=>{${CLIENT_BUNDLE}`);
const MODULE = scriptStart(CLIENT_BUNDLE);
const FALLBACK = new ScriptStart(
  `export const{${CLIENT_FALLBACK_NAMES}}=${CLIENT_FALLBACK_BUNDLE};`,
);

function scriptStart(text: string): Record<"bare" | "full", ScriptStart> {
  const full = `${text}const Lazy=${CLIENT_FALLBACK_BUNDLE};`;
  return { bare: new ScriptStart(text), full: new ScriptStart(full) };
}

/**
 * `GET /pusher.js` and `/pusher.mjs`: the client, ready to use. With `?full` it has
 * all that it would load when needed, which service workers may not.
 */
export function serveClient(
  request: Request,
  { key, host, path }: { key: string; host: string; path: string },
  asModule: boolean,
): Response {
  // The client names the host: nothing of it may end the string or the element.
  const json = JSON.stringify({ key, host: host + path }).replace(
    /[<>\u2028\u2029]/g,
    escapeUnit,
  );
  const isFull = new URL(request.url).searchParams.has("full");
  const lazy = isFull ? ",Lazy" : "";
  // The class is that of the instance, which may be of an earlier script.
  // The stack has the URL of the script: also in workers, and no element of the page
  // can give another URL, as with `document.currentScript`.
  const end = asModule
    ? `export const pusher=preset(${json},import.meta.url${lazy});const Served=pusher.constructor;export{Served as Pusher,Served as default};`
    : `globalThis.Pusher=(globalThis.pusher=preset(${json},Error().stack${lazy})).constructor})();`;
  const start = (asModule ? MODULE : CLASSIC)[isFull ? "full" : "bare"];
  const lazyTag = isFull ? CLIENT_FALLBACK_ETAG : "";
  const variant = createHash("sha256").update(lazyTag + end).digest("hex")
    .slice(0, 16);
  return serveScript(request, { start, end, tag: `${CLIENT_ETAG}-${variant}` });
}

/** `GET /pusher-fallback.mjs`: the HTTP transports, which the client loads if needed. */
export function serveFallback(request: Request): Response {
  const tag = CLIENT_FALLBACK_ETAG;
  return serveScript(request, { start: FALLBACK, end: "", tag });
}
