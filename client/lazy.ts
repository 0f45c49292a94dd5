/**
 * The part of the client that few pages need: the client loads it when a page first
 * needs it. A served client loads it as one script, `/pusher-fallback.mjs`.
 *
 * @module
 */
export { decrypt } from "./encrypted.ts";
export { HttpRace } from "./http.ts";
export { signIn } from "./user.ts";
