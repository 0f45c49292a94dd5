/**
 * The checker of options: the server's and those of everything that plugs into
 * it. A message names the option, its value and the rule, and never holds a secret.
 *
 * @module
 */

import { quote } from "./limits.ts";
import { isObject } from "./protocol.ts";
import { MAX_TIMER_MS } from "./time.ts";

/** Where a value was given. */
export interface Field {
  /** Opens every message, such as "Cannot create a Pusher". */
  readonly subject: string;
  /** The path of the option, such as `apps[0].key`; "" for the options object. */
  readonly name: string;
}

/** Throws if a value breaks the rule of its field. */
export type Check = (value: unknown, field: Field) => void;

// ---- Failures ---------------------------------------------------------------

/** Throws a TypeError. */
export function fail(value: unknown, field: Field, rule: string): never {
  throw new TypeError(describe(field, show(value), rule));
}

/** Throws a RangeError for a number, a TypeError for any other value. */
function failRange(value: unknown, field: Field, rule: string): never {
  if (typeof value !== "number") fail(value, field, rule);
  throw new RangeError(describe(field, show(value), rule));
}

/** Throws like {@linkcode fail}, without the value: it is, or may hold, a secret. */
export function failSecret(value: unknown, field: Field, rule: string): never {
  throw new TypeError(describe(field, showKind(value), rule));
}

function describe(
  { subject, name }: Field,
  found: string,
  rule: string,
): string {
  return `${subject}: ${name || "options"} is ${found}, and must ${rule}`;
}

function show(value: unknown): string {
  if (!Array.isArray(value)) return quote(value);
  return value.length === 0 ? "an empty array" : "an array";
}

function showKind(value: unknown): string {
  if (typeof value === "string") {
    return `a string of ${value.length} characters`;
  }
  return value === null ? "null" : `of type ${typeof value}`;
}

// ---- Objects and lists ------------------------------------------------------

/**
 * The check of an options object: it may have these options and no others, and
 * must have the required ones.
 *
 * @param hints What to do instead, for unknown options that programs bring along.
 */
export function objectOf<Options extends object>(
  checks: Readonly<Record<keyof Options, Check>>,
  required: readonly (keyof Options)[] = [],
  hints: Readonly<Record<string, string>> = {},
): Check {
  const known = Object.keys(checks);
  const needed: readonly PropertyKey[] = required;
  return (value, field) => {
    // A secret in place of the object that should hold it is still a secret.
    if (typeof value === "string") failSecret(value, field, "be an object");
    if (!isObject(value)) return fail(value, field, "be an object");
    const extra = Object.keys(value).find((name) => !known.includes(name));
    if (extra !== undefined) {
      const hint = Object.hasOwn(hints, extra) ? hints[extra] : undefined;
      failUnknown(optionOf(field, extra), known, hint);
    }
    for (const [name, check] of Object.entries<Check>(checks)) {
      const option = value[name];
      if (option === undefined && !needed.includes(name)) continue;
      check(option, optionOf(field, name));
    }
  };
}

/** The check of an object that may have these fields and no others; none is read. */
export function fieldsOf(known: readonly string[]): Check {
  return (value, field) => {
    if (typeof value === "string") failSecret(value, field, "be an object");
    if (!isObject(value)) return fail(value, field, "be an object");
    const extra = Object.keys(value).find((name) => !known.includes(name));
    if (extra !== undefined) failUnknown(optionOf(field, extra), known);
  };
}

/**
 * A copy of an options object, whose options are read once: what is used is then
 * what was checked. An undefined option is a missing one: as a limit, it would be
 * none. Anything but an object is returned as it is.
 *
 * @param names Options that the object may have inherited.
 */
export function copyOptions<Options extends object>(
  options: Options,
  names: readonly (keyof Options)[],
): Options {
  if (!isObject(options)) return options;
  const given: Record<PropertyKey, unknown> = options;
  const copy: Record<PropertyKey, unknown> = {};
  const known = new Set<PropertyKey>(names);
  for (const name of new Set([...Object.keys(given), ...known])) {
    const option = given[name];
    if (option !== undefined || !known.has(name)) copy[name] = option;
  }
  // It has the options of `options`, and each as it was read.
  return copy as unknown as Options;
}

/** The field of an option of an object. */
export function optionOf({ subject, name }: Field, option: string): Field {
  return { subject, name: name === "" ? option : `${name}.${option}` };
}

function failUnknown(
  { subject, name }: Field,
  known: readonly string[],
  hint?: string,
): never {
  const verb = known.length === 1 ? "is" : "are";
  throw new TypeError(
    `${subject}: unknown option ${quote(name)}, ${
      hint ?? `known ${verb} ${known.join(", ")}`
    }`,
  );
}

/** The check of an array. If it names a needed item, it refuses an empty array. */
export function listOf(check: Check, needed?: string): Check {
  const rule = needed === undefined
    ? "be an array"
    : `be an array with at least one ${needed}`;
  const least = needed === undefined ? 0 : 1;
  return (value, field) => {
    const isList = Array.isArray(value) && value.length >= least;
    if (!isList) return fail(value, field, rule);
    for (const [i, item] of value.entries()) check(item, itemOf(field, i));
  };
}

/** The field of an item of a list. */
export function itemOf({ subject, name }: Field, index: number): Field {
  return { subject, name: `${name}[${index}]` };
}

/** The check of an object by methods that nothing else has. */
export function having(methods: readonly string[], rule: string): Check {
  return (value, field) => {
    const isRight = value instanceof Object &&
      methods.every((method) => method in value);
    // Such as a key in place of what encrypts with it.
    if (typeof value === "string") failSecret(value, field, rule);
    if (!isRight) fail(value, field, rule);
  };
}

// ---- Texts ------------------------------------------------------------------

/**
 * Throws for a string with lone surrogates. As bytes they all become the same
 * character, so that two keys would name one app, or two secrets sign alike.
 */
export function checkWellFormed(value: unknown, field: Field): void {
  if (typeof value !== "string" || value.isWellFormed()) return;
  failSecret(value, field, "be well-formed Unicode, with no lone surrogate");
}

/** The check of a string by a pattern. */
export function matching(pattern: RegExp, rule: string): Check {
  return (value, field) => {
    checkWellFormed(value, field);
    const isRight = typeof value === "string" && pattern.test(value);
    if (!isRight) fail(value, field, rule);
  };
}

export const checkString: Check = matching(/^/, "be a string");

export const checkText: Check = matching(
  /[^]/,
  "be a string that is not empty",
);

/**
 * Ids and keys stand in paths and, before a colon, in signed texts. A URL takes a
 * backslash for a slash, and one or two dots for another path, so no request could
 * name such an app.
 */
const IDENTIFIER = /^(?!\.{1,2}$)[^/:?#%\s\\]+$/;
const IDENTIFIER_RULE =
  "be a string with none of / : ? # % \\ and no space, and not . or ..";

export const checkIdentifier: Check = matching(IDENTIFIER, IDENTIFIER_RULE);

/** The check of a key beside secrets: no message quotes it, as one may be in its place. */
export function checkKey(value: unknown, field: Field): void {
  checkWellFormed(value, field);
  if (typeof value === "string" && IDENTIFIER.test(value)) return;
  failSecret(value, field, IDENTIFIER_RULE);
}

export const checkPath: Check = matching(
  /^(\/[A-Za-z0-9._~-]+)*$/,
  'be "" or like "/realtime"',
);

export function checkSecret(value: unknown, field: Field): void {
  checkWellFormed(value, field);
  if (typeof value === "string" && value !== "") return;
  failSecret(value, field, "be a string that is not empty");
}

// ---- Numbers ----------------------------------------------------------------

/** The check of a limit: 0 allows nothing, Infinity anything. */
export function checkLimit(value: unknown, field: Field): void {
  const isWhole = Number.isSafeInteger(value) || value === Infinity;
  if (isWhole && Number(value) >= 0) return;
  failRange(value, field, "be a whole number from 0, or Infinity");
}

/** The check of a size below which nothing would work. */
export function checkSize(value: unknown, field: Field): void {
  if (typeof value === "number" && value > 0) return;
  failRange(value, field, "be a number above 0, or Infinity");
}

/** The check of a time in milliseconds, which must pass. */
export function checkDuration(value: unknown, field: Field): void {
  if (typeof value === "number" && value > 0 && value <= MAX_TIMER_MS) return;
  failRange(
    value,
    field,
    `be above 0 and at most ${MAX_TIMER_MS} milliseconds`,
  );
}

/** The check of a time in milliseconds, which may be 0. */
export function checkDelay(value: unknown, field: Field): void {
  if (typeof value === "number" && value >= 0 && value <= MAX_TIMER_MS) return;
  failRange(value, field, `be from 0 to ${MAX_TIMER_MS} milliseconds`);
}

// ---- Others -----------------------------------------------------------------

export function checkBoolean(value: unknown, field: Field): void {
  if (typeof value !== "boolean") fail(value, field, "be a boolean");
}

export function checkFunction(value: unknown, field: Field): void {
  if (typeof value !== "function") fail(value, field, "be a function");
}

/** The check of an option whose value is ignored, or checked elsewhere. */
export function checkNothing(): void {}
