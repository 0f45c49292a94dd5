/**
 * The keys of an app, each with its secret. An app has several while its secret is
 * replaced: the newest signs, and all are accepted.
 *
 * @module
 */

import {
  type Check,
  checkIdentifier,
  checkKey,
  checkSecret,
  copyOptions,
  fail,
  failSecret,
  type Field,
  itemOf,
  listOf,
  objectOf,
  optionOf,
} from "./checks.ts";
import type { Credentials } from "./signatures.ts";

/** The options that hold the keys of an app. */
export interface KeyOptions {
  readonly key?: string | undefined;
  readonly secret?: string | undefined;
  readonly keys?: readonly Credentials[] | undefined;
}

/** The keys of an app, the newest first. */
export function credentialsOf(
  { key, secret, keys = [] }: KeyOptions,
): readonly Credentials[] {
  if (key === undefined || secret === undefined) return keys;
  return [{ key, secret }, ...keys];
}

const CREDENTIALS: Record<keyof Credentials, Check> = {
  key: checkKey,
  secret: checkSecret,
};

const checkPairs = listOf(
  objectOf<Credentials>(CREDENTIALS, ["key", "secret"]),
  "key",
);

/** The check of several keys. */
export function checkKeys(keys: unknown, field: Field): void {
  // A text in place of the list may hold a secret.
  if (typeof keys === "string") failSecret(keys, field, "be an array of keys");
  checkPairs(keys, field);
}

/** A copy of several keys, each of which is read once. */
export function copyKeys(keys: readonly Credentials[]): Credentials[] {
  return Array.from(keys, (pair) => copyOptions(pair, ["key", "secret"]));
}

/** Throws if a key lacks its secret, or if there is no key at all. */
export function checkPair(
  { key, secret, keys }: KeyOptions,
  field: Field,
): void {
  if (keys !== undefined && key === undefined && secret === undefined) return;
  checkIdentifier(key, optionOf(field, "key"));
  checkSecret(secret, optionOf(field, "secret"));
}

/** Notes the keys of an app; throws if an app has one of them already. */
export function noteKeys(
  seen: Map<string, string>,
  { key, keys = [] }: KeyOptions,
  field: Field,
): void {
  if (key !== undefined) noteUnique(seen, key, field, "key");
  for (const [i, pair] of keys.entries()) {
    noteUnique(seen, pair.key, itemOf(optionOf(field, "keys"), i), "key");
  }
}

/** Notes an id or a key; throws if another app, or key, has the same. */
export function noteUnique(
  seen: Map<string, string>,
  value: string,
  item: Field,
  option: string,
): void {
  const twin = seen.get(value);
  if (twin !== undefined) {
    fail(value, optionOf(item, option), `differ from that of ${twin}`);
  }
  seen.set(value, item.name || "the options");
}
