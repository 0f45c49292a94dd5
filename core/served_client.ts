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
import { serveScript } from "./scripts.ts";

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
  const rest = isFull ? `,${CLIENT_FALLBACK_BUNDLE}` : "";
  // The class is that of the instance, which may be of an earlier script.
  // The stack has the URL of the script: also in workers, and no element of the page
  // can give another URL, as with `document.currentScript`.
  const script = asModule
    ? `${CLIENT_BUNDLE}export const pusher=preset(${json},import.meta.url${rest});const Served=pusher.constructor;export{Served as Pusher,Served as default};`
    : `(()=>{${CLIENT_BUNDLE}globalThis.Pusher=(globalThis.pusher=preset(${json},Error().stack${rest})).constructor})();`;
  const restTag = isFull ? CLIENT_FALLBACK_ETAG : "";
  const variant = createHash("sha256").update(`${asModule}${restTag}${json}`)
    .digest("hex").slice(0, 16);
  return serveScript(request, script, `${CLIENT_ETAG}-${variant}`);
}

/** `GET /pusher-fallback.mjs`: the HTTP transports, which the client loads if needed. */
export function serveFallback(request: Request): Response {
  const script =
    `export const{${CLIENT_FALLBACK_NAMES}}=${CLIENT_FALLBACK_BUNDLE};`;
  return serveScript(request, script, CLIENT_FALLBACK_ETAG);
}
