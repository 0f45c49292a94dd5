/**
 * Everything that the client loads only when a page needs it. It is one module,
 * because a served client loads one script: `/pusher-fallback.mjs`.
 *
 * @module
 */
export { Opener } from "./encrypted.ts";
export { HttpSocket } from "./http.ts";
