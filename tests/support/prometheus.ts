/**
 * Reads the text that Prometheus scrapes.
 *
 * @module
 */
import { assert } from "@std/assert";

/** One metric of a text. */
export interface Family {
  readonly type: string;
  readonly help: string;
  /** By the name of the series and its labels, such as `up{job="a"}`. */
  readonly samples: Map<string, number>;
  /** The names of the labels of all samples. */
  readonly labels: Set<string>;
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\.)*)"(?:,|$)/y;

/** Reads a text, and fails where it breaks the format. */
export function parseMetrics(text: string): Map<string, Family> {
  assert(text.endsWith("\n"), "the text has no line feed at its end");
  const families = new Map<string, Family>();
  for (const line of text.split("\n")) {
    const [, kind, name = "", rest = ""] =
      /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (kind === "HELP") {
      assert(!families.has(name), `${name} is there twice`);
      const [samples, labels] = [new Map<string, number>(), new Set<string>()];
      families.set(name, { type: "untyped", help: rest, samples, labels });
    } else if (kind === "TYPE") {
      const family = families.get(name);
      assert(family !== undefined, `${name} has no help`);
      families.set(name, { ...family, type: rest });
    } else if (line !== "") {
      takeSample(families, line);
    }
  }
  return families;
}

function takeSample(families: Map<string, Family>, line: string): void {
  const [, name = "", labels = "", value] = SAMPLE.exec(line) ?? [];
  assert(value !== undefined, `"${line}" is no sample`);
  const family = families.get(name) ??
    families.get(name.replace(/_(bucket|sum|count)$/, ""));
  assert(family !== undefined, `"${line}" belongs to no metric`);
  const id = line.slice(0, line.lastIndexOf(" "));
  assert(!family.samples.has(id), `${id} is there twice`);
  family.samples.set(id, Number(value));
  assert(!Number.isNaN(Number(value)), `"${line}" has no number`);
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < labels.length) {
    const [, label] = LABEL.exec(labels) ?? [];
    assert(label !== undefined, `"${line}" has labels that are none`);
    family.labels.add(label);
  }
}

/** The samples of a text that are not 0, without the names that are left out. */
export function valuesOf(
  text: string,
  names: readonly string[],
): Record<string, number> {
  const families = parseMetrics(text);
  return Object.fromEntries(
    names.flatMap((name) => [...families.get(name)?.samples ?? []])
      .filter(([, value]) => value !== 0),
  );
}
