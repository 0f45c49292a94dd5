/**
 * The values of the metrics, and their text.
 *
 * @module
 */

import { Counter, Gauge, Histogram, Registry } from "npm:prom-client@15.1.3";
import {
  BUCKETS,
  type Definition,
  DEFINITIONS,
  type MetricName,
} from "./definitions.ts";

/** Labels and their values. */
export type Labels = Readonly<Record<string, string>>;

/** All metrics of one server. */
export class Values {
  readonly #registry = new Registry();
  readonly #counters = new Map<string, Counter<string>>();
  readonly #gauges = new Map<string, Gauge<string>>();
  readonly #histograms = new Map<string, Histogram<string>>();
  /** By gauge, the labels with which it had a value. */
  readonly #labels = new Map<string, Map<string, Labels>>();

  /** @param labels Labels that each metric has. */
  constructor(labels: Labels) {
    this.#registry.setDefaultLabels(labels);
    const all = Object.entries<Definition>(DEFINITIONS);
    for (const [name, { type, help, labels: labelNames = [] }] of all) {
      const common = { name, help, labelNames, registers: [this.#registry] };
      switch (type) {
        case "counter":
          this.#counters.set(name, new Counter(common));
          break;
        case "gauge":
          this.#gauges.set(name, new Gauge(common));
          break;
        case "histogram": {
          const options = { ...common, buckets: [...BUCKETS] };
          this.#histograms.set(name, new Histogram(options));
        }
      }
    }
  }

  /** The media type of the text. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All metrics as text. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** Adds to a counter. */
  add(name: MetricName, labels: Labels, by = 1): void {
    this.#counters.get(name)?.inc(labels, by);
  }

  /** Adds a time in milliseconds to a histogram. */
  observe(name: MetricName, labels: Labels, tookMs: number): void {
    this.#histograms.get(name)?.observe(labels, tookMs / 1000);
  }

  /**
   * Replaces all values of a gauge, or of a counter whose values are kept elsewhere. A
   * value of labels that came before is 0 if it does not come again: a series that
   * ends without a 0 would look as if nobody had asked.
   */
  replace(name: MetricName, values: Iterable<readonly [Labels, number]>): void {
    const counter = this.#counters.get(name);
    if (counter !== undefined) {
      counter.reset();
      for (const [labels, value] of values) counter.inc(labels, value);
      return;
    }
    const gauge = this.#gauges.get(name);
    for (const labels of this.#seen(name).values()) gauge?.set(labels, 0);
    for (const [labels, value] of values) {
      this.#seen(name).set(JSON.stringify(labels), labels);
      gauge?.inc(labels, value);
    }
  }

  /** Says that a gauge has no value: without one it is 0. */
  clear(name: MetricName): void {
    this.#gauges.get(name)?.remove();
  }

  #seen(name: string): Map<string, Labels> {
    const seen = this.#labels.get(name) ?? new Map<string, Labels>();
    this.#labels.set(name, seen);
    return seen;
  }
}
