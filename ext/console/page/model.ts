/**
 * What the page knows and how it says it, without a browser.
 *
 * @module
 */

import type { FeedEvent } from "../feed.ts";
import type { Sample } from "../figures.ts";

// ---- Texts ------------------------------------------------------------------

/**
 * A text in which nothing is invisible, and nothing turns the reading direction: such
 * characters become their code, as in `\u{202e}`.
 */
export function visible(text: string): string {
  return text.replace(
    UNSEEN,
    (unit) => `\\u{${unit.codePointAt(0)?.toString(16)}}`,
  );
}

/** Controls but tab and line feed, and what formats: direction marks, joiners, tags. */
// deno-lint-ignore no-control-regex -- these are what must be seen
const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]|\p{Cf}|\p{Cs}/gu;

/** Data as a person reads it: JSON with indents, other texts as they are. */
export function pretty(data: string, isWhole: boolean): string {
  if (!isWhole) return visible(data);
  try {
    return visible(JSON.stringify(JSON.parse(data), null, 2));
  } catch {
    return visible(data);
  }
}

/** A number of bytes, in three digits. */
export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  let size = count;
  while (size >= 1_000 && units.length > 1) {
    size /= 1_024;
    units.shift();
  }
  const digits = Number.isInteger(size) || size >= 100 ? 0 : 1;
  return `${size.toFixed(digits)} ${units[0]}`;
}

/** A number with its thousands apart. */
export function grouped(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A time that has passed, in its largest two units. */
export function age(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ] as const;
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** A time of the day, to the millisecond. */
export function clockTime(at: number): string {
  const date = new Date(at);
  const two = (value: number) => String(value).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${
    two(date.getSeconds())
  }.${ms}`;
}

/** One or many. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}

/** A server's id, as much of it as a person can compare. */
export function shortNode(node: string): string {
  return visible(node.slice(0, 8));
}

// ---- Events -----------------------------------------------------------------

/** Rows that a browser shows without effort. */
export const MAX_SHOWN = 300;

/** The last events, the latest first; while it is paused they wait. */
export class EventLog {
  #shown: readonly FeedEvent[] = [];
  #waiting: FeedEvent[] = [];
  #isPaused = false;
  /** Events that the server has left out since the list was cleared. */
  skipped = 0;

  get shown(): readonly FeedEvent[] {
    return this.#shown;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  add(events: readonly FeedEvent[], skipped: number): void {
    this.skipped += skipped;
    if (this.#isPaused) {
      this.#waiting = [...this.#waiting, ...events].slice(-MAX_SHOWN);
    } else this.#show(events);
  }

  pause(isPaused: boolean): void {
    this.#isPaused = isPaused;
    if (!isPaused) this.#show(this.#waiting.splice(0));
  }

  clear(): void {
    this.#shown = [];
    this.#waiting = [];
    this.skipped = 0;
  }

  #show(events: readonly FeedEvent[]): void {
    this.#shown = [...events.toReversed(), ...this.#shown].slice(0, MAX_SHOWN);
  }
}

/** What an event is, in words. */
export const WORDS: Readonly<Record<FeedEvent["what"], string>> = Object.freeze(
  {
    connected: "connected",
    disconnected: "disconnected",
    channel_occupied: "channel occupied",
    channel_vacated: "channel vacated",
    member_added: "member added",
    member_removed: "member removed",
    subscribed: "subscribed",
    unsubscribed: "unsubscribed",
    recovered: "recovered",
    refused: "refused",
    backplane: "backplane",
    client_event: "client event",
    published: "published",
    cache_miss: "cache miss",
    subscription_count: "subscribers",
    error: "error",
  },
);

// ---- Charts -----------------------------------------------------------------

/** What a chart shows of the past, in milliseconds. */
export const SHOWN_MS = 300_000;
/** Samples further apart have nothing between them. */
const GAP_MS = 5_000;

/** The least of 1, 2 and 5 times a power of ten that is not below a value. */
export function niceMax(value: number): number {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power)
    .find((step) => step >= value) ?? value;
}

/** The lines of a series, as the path of an SVG of 300 by 100. */
export function linePath(
  samples: readonly Sample[],
  valueOf: (sample: Sample) => number,
  max: number,
  now: number,
): string {
  let path = "";
  let before = -Infinity;
  for (const sample of samples) {
    const x = 300 * (1 - (now - sample.at) / SHOWN_MS);
    if (x < 0) continue;
    const y = 100 * (1 - valueOf(sample) / max);
    path += `${sample.at - before > GAP_MS ? "M" : "L"}${x.toFixed(1)} ${
      y.toFixed(1)
    }`;
    before = sample.at;
  }
  return path;
}

/** The samples with one more, and without those that are too old to be shown. */
export function withSample(
  samples: readonly Sample[],
  sample: Sample,
): readonly Sample[] {
  const oldest = sample.at - SHOWN_MS;
  return [
    ...samples.filter(({ at }) => at >= oldest && at < sample.at),
    sample,
  ];
}
