/**
 * The paths of requests: which of them are the server's, and which a backend may
 * have signed.
 *
 * @module
 */

import { decodePart } from "./signatures.ts";

/**
 * The part of a path behind the server's own, such as `/app/{key}`; null if the
 * path is not the server's.
 */
export function routePath(pathname: string, prefix: string): string | null {
  const path = mergeSlashes(pathname, prefix);
  return path.startsWith(`${prefix}/`) ? path.slice(prefix.length) : null;
}

/**
 * Merges the slashes that clients and proxies double where they join paths, as in
 * `//app/{key}`. Behind `/apps/{id}/` two slashes stay: a name is missing there.
 *
 * @param prefix The server's own path, which may have such names itself.
 */
export function mergeSlashes(pathname: string, prefix = ""): string {
  if (!pathname.includes("//")) return pathname;
  const merged = pathname.replace(SLASHES, "/");
  const api = `${prefix}/apps/`;
  if (!merged.startsWith(api)) return merged;
  const names = api.split("/").length - 2;
  return api + pathname.replace(new RegExp(`^(?:/+[^/]+){${names}}/+`), "");
}

const SLASHES = /\/{2,}/g;

/**
 * The paths that a backend may have signed for a request to the HTTP API: as they
 * were sent or with single slashes, with the server's own path or without it (the
 * SDK for PHP), before or after escaping. All of them mean the same request.
 */
export function signedPaths(pathname: string, prefix: string): Set<string> {
  const paths = new Set<string>();
  const add = (path: string) => {
    paths.add(path);
    const plain = decodePart(path);
    if (plain !== null && isPlain(plain)) paths.add(plain);
  };
  for (const path of [pathname, mergeSlashes(pathname, prefix)]) {
    add(path);
    if (path.startsWith(`${prefix}/`)) add(path.slice(prefix.length));
  }
  return paths;
}

/**
 * Whether an unescaped path is no other request's path as sent: that path would
 * hold escapes. Nor may it hold a line feed, which separates the parts of a text.
 */
function isPlain(path: string): boolean {
  return !path.includes("\n") && (decodePart(path) ?? path) === path;
}
