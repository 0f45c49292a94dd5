/**
 * Stand-in for `@std/assert` on machines that cannot reach JSR: the functions
 * the tests of this package use, with the names, signatures and behaviour of
 * `@std/assert` 1. Only the layout of a difference is another, because
 * `node:assert` prints it.
 *
 * @module
 */
import { AssertionError as NodeAssertionError } from "node:assert";

// deno-lint-ignore no-explicit-any -- what a constructor takes does not matter here
type ErrorClass<E> = abstract new (...args: any[]) => E;

/** What every failing assertion throws. */
export class AssertionError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

/** Fails with a message. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}

/** Expects a truthy value. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Expects a falsy value. */
export function assertFalse(expr: unknown, msg = ""): void {
  if (expr) throw new AssertionError(msg);
}

/** Expects deep equality, as `equal` defines it. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(
    `Values are not equal${suffix(msg)}\n${difference(actual, expected)}`,
  );
}

/** Expects the opposite of `assertEquals`. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected actual: ${format(actual)} not to be: ${format(expected)}` +
      suffix(msg),
  );
}

/** Expects the same value, as `Object.is` compares. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  const text = format(actual);
  throw new AssertionError(
    text === format(expected)
      ? `Values have the same structure but are not reference-equal${
        suffix(msg)
      }\n\n${text}\n`
      : `Values are not strictly equal${suffix(msg)}\n${
        difference(actual, expected)
      }`,
  );
}

/** Expects neither `null` nor `undefined`. */
export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`,
  );
}

/** Expects an instance of a class. */
// deno-lint-ignore no-explicit-any -- any class will do
export function assertInstanceOf<T extends ErrorClass<any>>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  const found = typeof actual === "object" && actual !== null
    ? actual.constructor?.name ?? "Object"
    : actual === null
    ? "null"
    : typeof actual;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}" but was "${found}"${
      suffix(msg)
    }`,
  );
}

/** Expects a string that a pattern matches. */
export function assertMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to match: "${expected}"${suffix(msg)}`,
  );
}

/** Expects a string that contains another. */
export function assertStringIncludes(
  actual: string,
  expected: string,
  msg?: string,
): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to contain: "${expected}"${suffix(msg)}`,
  );
}

/** Expects every expected item somewhere among the actual ones. */
export function assertArrayIncludes<T>(
  actual: ArrayLike<T> & object,
  expected: ArrayLike<T> & object,
  msg?: string,
): void {
  const items = Array.from(actual);
  const missing = Array.from(expected)
    .filter((item) => !items.some((candidate) => equal(item, candidate)));
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${format(actual)}" to include: "${format(expected)}"${
      suffix(msg)
    }\nmissing: ${format(missing)}`,
  );
}

/** Expects `actual` to hold at least what `expected` holds, deeply. */
export function assertObjectMatch(
  // deno-lint-ignore no-explicit-any -- as in @std: interfaces are accepted too
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  assertEquals(common(actual, expected), common(expected, expected), msg);
}

/** Expects `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (actual > expected) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} > ${format(expected)}`,
  );
}

/** Expects `actual >= expected`. */
export function assertGreaterOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual >= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} >= ${format(expected)}`,
  );
}

/** Expects `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (actual < expected) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} < ${format(expected)}`,
  );
}

/** Expects `actual <= expected`. */
export function assertLessOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (actual <= expected) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} <= ${format(expected)}`,
  );
}

/** Expects an `Error`, of a class and with a message where these are given. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: ErrorClass<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    throw new AssertionError(
      `Expected "error" to be an Error object${suffix(msg)}`,
    );
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", but was "${
        (error as Error).constructor?.name
      }"${suffix(msg)}`,
    );
  }
  const matches = msgMatches instanceof RegExp
    ? msgMatches.test(error.message)
    : error.message.includes(msgMatches ?? "");
  if (matches) return;
  throw new AssertionError(
    `Expected error message to include ${
      msgMatches instanceof RegExp ? msgMatches : JSON.stringify(msgMatches)
    }, but got ${JSON.stringify(error.message)}${suffix(msg)}`,
  );
}

/** Expects a function to throw, and returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error>(
  fn: () => unknown,
  classOrMsg?: ErrorClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  const expected = expectation(classOrMsg, msgIncludes, msg);
  try {
    fn();
  } catch (error) {
    expected.check(error, "A non-Error object was thrown");
    return error;
  }
  return expected.fail("Expected function to throw");
}

/** Expects a promise to reject, and resolves to its reason. */
export function assertRejects(
  fn: () => PromiseLike<unknown>,
  msg?: string,
): Promise<unknown>;
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error>(
  fn: () => PromiseLike<unknown>,
  classOrMsg?: ErrorClass<E> | string,
  msgIncludes?: string,
  msg?: string,
): Promise<unknown> {
  const expected = expectation(classOrMsg, msgIncludes, msg);
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch {
    return expected.fail("Function throws when expected to reject");
  }
  try {
    await promise;
  } catch (error) {
    expected.check(error, "A non-Error object was rejected");
    return error;
  }
  return expected.fail("Expected function to reject");
}

/** Classes whose instances are equal when their texts are. */
const STRING_KINDS = [RegExp, URL, URLSearchParams];

/**
 * Deep equality as `@std/assert` has it: `0` equals `-0`, `NaN` equals `NaN`,
 * an object without a prototype equals a plain one, a missing key differs from
 * an `undefined` one.
 */
export function equal(a: unknown, b: unknown): boolean {
  const seen = new Map<object, object>();
  return compare(a, b);

  function compare(a: unknown, b: unknown): boolean {
    if (a === b || Object.is(a, b)) return true;
    if (!isObject(a) || !isObject(b)) return false;
    if (kindOf(a) !== kindOf(b)) return false;
    if (seen.get(a) === b) return true;
    seen.set(a, b);
    if (a instanceof Date) return Object.is(+a, +(b as Date));
    if (STRING_KINDS.some((kind) => a instanceof kind)) {
      return String(a) === String(b);
    }
    if (a instanceof ArrayBuffer) {
      return compare(new Uint8Array(a), new Uint8Array(b as ArrayBuffer));
    }
    if (a instanceof Set || a instanceof Map) {
      const left: unknown[] = [...a];
      const right: unknown[] = [...b as Iterable<unknown>];
      return left.length === right.length &&
        left.every((x) => right.some((y) => compare(x, y)));
    }
    const keys = new Set([...keysOf(a), ...keysOf(b)]);
    for (const key of keys) {
      if (!(key in a && key in b)) return false;
      if (!compare(Reflect.get(a, key), Reflect.get(b, key))) return false;
    }
    return true;
  }
}

/** The prototype, with "none" and "plain object" as one kind. */
function kindOf(value: object): unknown {
  return Object.getPrototypeOf(value) ?? Object.prototype;
}

/** All that tells two values of one kind apart, inherited getters included. */
function keysOf(value: object): PropertyKey[] {
  const prototypes: unknown[] = [Object.prototype, Array.prototype, null];
  let prototype = Object.getPrototypeOf(value);
  if (prototypes.includes(prototype)) return Reflect.ownKeys({ ...value });
  const keys = Reflect.ownKeys(value);
  while (!prototypes.includes(prototype)) {
    keys.push(...Reflect.ownKeys(prototype));
    prototype = Object.getPrototypeOf(prototype);
  }
  return keys;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** The part of `actual` whose keys `expected` has too, deeply. */
function common(actual: unknown, expected: unknown): unknown {
  if (Array.isArray(actual) && Array.isArray(expected)) {
    return actual.slice(0, expected.length)
      .map((item, index) => common(item, expected[index]));
  }
  const whole = (value: unknown) =>
    !isObject(value) || Array.isArray(value) || value instanceof Date ||
    value instanceof RegExp || value instanceof Map || value instanceof Set;
  if (whole(actual) || whole(expected)) return actual;
  const [from, like] = [actual as object, expected as object];
  const shared = Reflect.ownKeys(from).filter((key) =>
    Object.hasOwn(like, key)
  );
  return Object.fromEntries(
    shared.map((key) => [
      key,
      common(Reflect.get(from, key), Reflect.get(like, key)),
    ]),
  );
}

/** What assertThrows and assertRejects share: their arguments, read once. */
function expectation<E extends Error>(
  classOrMsg: ErrorClass<E> | string | undefined,
  msgIncludes: string | undefined,
  msg: string | undefined,
): {
  check(error: unknown, notAnError: string): void;
  fail(message: string): never;
} {
  const ErrorClass = typeof classOrMsg === "string" ? undefined : classOrMsg;
  const note = typeof classOrMsg === "string" ? classOrMsg : msg;
  const fail = (message: string): never => {
    throw new AssertionError(message + suffix(note));
  };
  return {
    fail,
    check(error, notAnError) {
      if (!ErrorClass) return;
      if (!(error instanceof Error)) fail(notAnError);
      assertIsError(error, ErrorClass, msgIncludes, note);
    },
  };
}

function suffix(msg?: string): string {
  return msg ? `: ${msg}` : ".";
}

function format(value: unknown): string {
  return Deno.inspect(value, { depth: Infinity, sorted: true });
}

/** The lines in which two values differ, with `+` and `-`. */
function difference(actual: unknown, expected: unknown): string {
  const operator = "deepStrictEqual";
  const { message } = new NodeAssertionError({ actual, expected, operator });
  // The first line only repeats that they differ.
  return message.slice(message.indexOf("\n") + 1);
}
