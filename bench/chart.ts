/**
 * The chart of the README, as an SVG that suits light and dark pages.
 *
 * @module
 */
import type { Peer } from "./peer.ts";
import { format, type Subjects } from "./report.ts";
import { medianOf, type Results } from "./results.ts";
import type { Metric } from "./scenarios.ts";

/** Bars for one metric. */
interface Panel {
  title: string;
  scenario: string;
  metric: string;
  /** Our ways, and how the chart names them. */
  ours: Record<string, string>;
}

const PANELS: Panel[] = [
  {
    title: "Deliveries a second, 16 publishers",
    scenario: "fanout",
    metric: "fanout 16",
    ours: { "ours": "ours", "ours+batch": "ours, batches" },
  },
  {
    title: "HTTP publishes a second",
    scenario: "publishes",
    metric: "publishes",
    ours: { "ours": "ours" },
  },
  {
    title: "99th percentile of latency (less is better)",
    scenario: "latency",
    metric: "latency p99",
    ours: { "ours": "ours", "ours+batch": "ours, batches" },
  },
  {
    title: "Memory of an idle connection (less is better)",
    scenario: "memory",
    metric: "memory 5000",
    ours: { "ours": "ours" },
  },
];

interface Bar {
  label: string;
  value: number;
  role: Peer["role"];
}

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .ours { fill: #1a7f37; } .peer { fill: #8c959f; }
  .ceiling, .floor { fill: #c8ccd1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #3fb950; } .peer { fill: #7d8590; }
    .ceiling, .floor { fill: #484f58; }
  }
`;

const WIDTH = 400, LABEL = 130, NUMBER = 70, LINE = 20, TITLE = 30, GAP = 20;

/** Draws the metrics that there are results for, two in a line. */
export function chart(results: Results, subjects: Subjects): string {
  const panels = PANELS.flatMap((panel) => {
    const kind = subjects.scenarios[panel.scenario]?.metrics[panel.metric];
    const bars = barsOf(panel, results, subjects.peers);
    return kind && bars.length > 0 ? [{ ...panel, kind, bars }] : [];
  });
  const height = TITLE + GAP +
    LINE * Math.max(0, ...panels.map(({ bars }) => bars.length));
  const rows = Math.ceil(panels.length / 2);
  const parts = panels.map(({ title, bars, kind }, i) => {
    const x = (i % 2) * (WIDTH + GAP), y = Math.floor(i / 2) * height;
    return `<g transform="translate(${x} ${y})">\n${
      draw(title, bars, kind)
    }\n</g>`;
  });
  const size = `${2 * WIDTH + GAP} ${rows * height}`;
  const [width, tall] = size.split(" ");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size}" ` +
    `width="${width}" height="${tall}" role="img" ` +
    `aria-label="Our server and others, measured side by side">`,
    `<style>${STYLE}</style>`,
    ...parts,
    "</svg>",
    "",
  ].join("\n");
}

function barsOf(
  { scenario, metric, ours }: Panel,
  results: Results,
  peers: readonly Peer[],
): Bar[] {
  const result = results[scenario];
  if (!result) return [];
  const all = peers.flatMap(({ name, label, role }) => {
    const ways: [string, string][] = role === "ours"
      ? Object.entries(ours)
      : [[name, label]];
    return ways.map(([subject, label]) => ({ subject, label, role }));
  });
  return all.flatMap(({ subject, label, role }) => {
    const value = medianOf(result, subject, metric);
    return value === null ? [] : [{ label, value, role }];
  });
}

function draw(title: string, bars: Bar[], { unit }: Metric): string {
  const most = Math.max(...bars.map(({ value }) => value));
  const room = WIDTH - LABEL - NUMBER;
  return [
    `<text class="title" x="0" y="18">${escape(title)}</text>`,
    ...bars.flatMap(({ label, value, role }, i) => {
      const y = TITLE + i * LINE, length = Math.max(1, room * value / most);
      return [
        `<text x="${LABEL - 8}" y="${y + 13}" text-anchor="end">${
          escape(label)
        }</text>`,
        `<rect class="${role}" x="${LABEL}" y="${y + 2}" ` +
        `width="${length.toFixed(1)}" height="${LINE - 6}" rx="2"/>`,
        `<text x="${(LABEL + length + 6).toFixed(1)}" y="${y + 13}">${
          format(value, unit)
        }</text>`,
      ];
    }),
  ].join("\n");
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
