/**
 * The one checker of options: each is checked by name, and no message holds a secret.
 *
 * @module
 */

import { quote } from "./limits.ts";
import { MAX_TIMER_MS } from "./time.ts";

/** Throws if the value of an option is not right. */
export type Check = (value: unknown, name: string) => void;

export function checkFields(
  given: object,
  checks: Record<string, Check>,
  at: string,
): void {
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(checks, name)) {
      throw new TypeError(
        `${CANNOT_CREATE}: unknown option ${quote(at + name)}, known are ${
          Object.keys(checks).join(", ")
        }`,
      );
    }
    if (value !== undefined) checks[name]?.(value, at + name);
  }
}

export const CANNOT_CREATE = "Cannot create a Pusher";

export function failOption(name: string, value: unknown, rule: string): never {
  const message = `${CANNOT_CREATE}: ${name} is ${
    quote(value)
  }, and must ${rule}`;
  throw typeof value === "number"
    ? new RangeError(message)
    : new TypeError(message);
}

export function checkIdentifier(value: unknown, name: string): void {
  // It stands in paths and, before a colon, in signed texts.
  if (typeof value === "string" && /^[^/:?#%\s]+$/.test(value)) return;
  failOption(name, value, "be a string with none of / : ? # % and no space");
}

export function checkSecret(value: unknown, name: string): void {
  if (typeof value === "string" && value !== "") return;
  // The value stays out of the message, whatever it is.
  throw new TypeError(`${CANNOT_CREATE}: ${name} must be a string, not empty`);
}

export function checkPath(value: unknown, name: string): void {
  const fits = typeof value === "string" &&
    /^(\/[A-Za-z0-9._~-]+)*$/.test(value);
  if (!fits) failOption(name, value, 'be "" or like "/realtime"');
}

export function checkBoolean(value: unknown, name: string): void {
  if (typeof value !== "boolean") failOption(name, value, "be true or false");
}

export function checkFunction(value: unknown, name: string): void {
  if (typeof value !== "function") failOption(name, value, "be a function");
}

export function checkLimit(value: unknown, name: string): void {
  const whole = Number.isSafeInteger(value) || value === Infinity;
  if (whole && Number(value) >= 0) return;
  failOption(name, value, "be a whole number from 0, or Infinity");
}

export function checkDuration(value: unknown, name: string): void {
  if (typeof value === "number" && value > 0 && value <= MAX_TIMER_MS) return;
  failOption(
    name,
    value,
    `be above 0 and at most ${MAX_TIMER_MS} milliseconds`,
  );
}

export function checkNothing(): void {
  // An option of the official SDK that has no meaning here.
}
