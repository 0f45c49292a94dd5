/**
 * What `docs/` says of the metrics: the table, the alert rules and the dashboard name
 * metrics and labels that are exported.
 */
import { Pusher } from "@glitz/pusher";
import { metrics } from "@glitz/pusher/metrics";
import { assert, assertEquals } from "@std/assert";
import { type Definition, DEFINITIONS } from "../ext/metrics/definitions.ts";
import { parseMetrics } from "./support/prometheus.ts";

const read = (file: string) =>
  Deno.readTextFile(new URL(`../docs/${file}`, import.meta.url));

const LIST = Object.entries<Definition>(DEFINITIONS);

/** Labels that Prometheus adds, and that of a histogram's buckets. */
const FOREIGN = ["job", "instance", "le"];

/** Metrics of Prometheus itself. */
const PROMETHEUS = ["up"];

const FUNCTIONS = [
  ...["sum", "count", "max", "by", "rate", "increase", "changes", "or", "time"],
  ...["vector", "histogram_quantile"],
];

/** Fails if an expression names a metric or a label that is not exported. */
function checkExpression(expression: string): string[] {
  const found = new Set<string>();
  const plain = expression.replaceAll(/"[^"]*"/g, '""');
  const labelled = plain.matchAll(
    /([a-z]\w*)?\s*(?:\{([^}]*)\}|\b(?:by) \(([^)]*)\))/g,
  );
  const labels = Array.from(
    labelled,
    ([, , matchers = "", by = ""]) =>
      [...matchers.matchAll(/(\w+)\s*=~?/g)].map(([, name]) => name!)
        .concat(by.split(",").map((name) => name.trim()).filter(Boolean)),
  ).flat();
  const bare = plain.replaceAll(/\{[^}]*\}|\bby \([^)]*\)|\[[^\]]*\]/g, " ");
  for (const [name] of bare.matchAll(/[a-z_]\w*/g)) {
    if (FUNCTIONS.includes(name) || PROMETHEUS.includes(name)) continue;
    const base = name.replace(/_(bucket|sum|count)$/, "");
    const definition = LIST.find(([known, { type }]) =>
      type === "histogram" ? known === base && known !== name : known === name
    );
    assert(definition !== undefined, `${name} in ${expression}`);
    found.add(definition[0]);
  }
  const known = LIST.filter(([name]) => found.has(name))
    .flatMap(([, definition]) => definition.labels ?? []);
  for (const label of labels) {
    const isKnown = known.includes(label) || FOREIGN.includes(label);
    assert(isKnown, `label ${label} in ${expression}`);
  }
  return [...found];
}

Deno.test("docs/metrics.md has a row for each metric, with its type, labels and meaning", async () => {
  using exported = metrics(new Pusher());
  const families = parseMetrics(await exported.text());
  const rows = (await read("metrics.md")).matchAll(
    /^\| `((?:pusher|process)_\w+)` +\| (\w+) +\| (.*?) +\| (.*?) +\| (\w+) +\|$/gm,
  );
  const told = Array.from(
    rows,
    ([, name, type, labels = "", help, servers]) => {
      assert(["sum", "each", "no"].includes(servers!), `${name}: ${servers}`);
      const names = [...labels.matchAll(/`(\w+)`/g)].map(([, label]) => label);
      return { name, type, labels: names, help: `${help}.` };
    },
  );
  const exportedRows = Array.from(families, ([name, { type, help }]) => {
    const labels = [...LIST.find(([one]) => one === name)?.[1].labels ?? []];
    return { name, type, labels, help };
  });
  assertEquals(told, exportedRows);
});

/** The blocks of the rules, each with its fields. */
async function rules() {
  const [, ...blocks] = (await read("metrics/rules.yml")).split("- alert: ");
  return blocks.map((block) => {
    const expression = /^ +expr: (?:>-\n)?([^]*?)\n {8}\w+:/m.exec(block)?.[1];
    assert(expression !== undefined, block);
    return {
      name: block.split("\n")[0],
      expression: expression.replaceAll(/\s+/g, " "),
      severity: /^ +severity: (\w+)$/m.exec(block)?.[1],
      summary: /^ +summary: "(.+)"$/m.exec(block)?.[1],
    };
  });
}

Deno.test("docs/metrics/rules.yml names metrics and labels that are exported, and docs/metrics.md its alerts", async () => {
  const all = await rules();
  for (const { name, expression, severity, summary } of all) {
    checkExpression(expression);
    assert(["critical", "warning"].includes(severity ?? ""), name);
    assert(summary !== undefined, name);
  }
  const told = (await read("metrics.md")).matchAll(/^\| `(Pusher\w+)`/gm);
  assertEquals(
    all.map(({ name }) => name),
    Array.from(told, ([, name]) => name),
  );
});

interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: { expr: string }[];
}

Deno.test("docs/metrics/grafana.json shows every metric, names no other, and has its panels beside each other", async () => {
  const dashboard: {
    panels: Panel[];
    templating: { list: { name: string; definition?: string }[] };
  } = JSON.parse(await read("metrics/grafana.json"));
  const { panels, templating } = dashboard;
  const shown = panels.flatMap(({ targets = [] }) =>
    targets.flatMap(({ expr }) => checkExpression(expr))
  );
  assertEquals(
    [...new Set(shown)].sort(),
    LIST.map(([name]) => name).sort(),
  );
  for (const { definition = "" } of templating.list) {
    const [, series] = /^label_values\((.*), \w+\)$/.exec(definition) ?? [];
    if (series !== undefined) checkExpression(series);
  }
  const variables = new Set(templating.list.map(({ name }) => name));
  for (const [, name = ""] of JSON.stringify(panels).matchAll(/\$\{?(\w+)/g)) {
    assert(variables.has(name) || name.startsWith("__"), name);
  }
  assertEquals(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Set<string>();
  for (const { title, gridPos: { x, y, w, h } } of panels) {
    assert(x + w <= 24, title);
    for (let i = 0; i < w * h; i++) {
      const cell = `${x + i % w} ${y + Math.floor(i / w)}`;
      assert(!taken.has(cell), `${title} covers another panel`);
      taken.add(cell);
    }
  }
});

Deno.test("docs/scaling.md says by which metrics a failure shows, and all of them are exported", async () => {
  const named = (await read("scaling.md")).matchAll(
    /`((?:pusher|process)_\w+)`/g,
  );
  const names = Array.from(named, ([, name = ""]) => name);
  assert(names.length >= 10, names.join());
  for (const name of names) assert(name in DEFINITIONS, name);
});

Deno.test("an expression with a name that is not exported is found", () => {
  for (
    const expression of [
      "sum(pusher_connection)",
      'pusher_connections{chanel="x"}',
      "sum by (kind) (pusher_connections)",
      "rate(pusher_ready_bucket[5m])",
    ]
  ) {
    let isFound = false;
    try {
      checkExpression(expression);
    } catch {
      isFound = true;
    }
    assert(isFound, expression);
  }
});
