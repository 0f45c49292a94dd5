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
} from "../client_bundle.ts";
import { escapeUnit, serveScript } from "./http.ts";

/** `GET /pusher.js` and `/pusher.mjs`: the client, ready to use. */
export function serveClient(
  request: Request,
  config: { key: string; host: string; path: string },
  asModule: boolean,
): Response {
  // The client names the host: nothing of it may end the string or the element.
  const json = JSON.stringify(config).replace(/[<>\u2028\u2029]/g, escapeUnit);
  const script = asModule
    ? `${CLIENT_BUNDLE}export{Pusher,Pusher as default};export const pusher=preset(${json},import.meta.url);`
    : `(()=>{${CLIENT_BUNDLE}globalThis.Pusher=Pusher;globalThis.pusher=preset(${json},globalThis.document?.currentScript?.src)})();`;
  const variant = createHash("sha256").update(`${asModule}${json}`)
    .digest("hex").slice(0, 16);
  return serveScript(request, script, `${CLIENT_ETAG}-${variant}`);
}

/** `GET /pusher-fallback.mjs`: the HTTP transports, which the client loads if needed. */
export function serveFallback(request: Request): Response {
  return serveScript(request, CLIENT_FALLBACK_BUNDLE, CLIENT_FALLBACK_ETAG);
}
