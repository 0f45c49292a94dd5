/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view of everything at once: servers, figures, charts and what came last.
 *
 * @module
 */

import type { Stats } from "../../../core/calls.ts";
import type { Sample } from "../figures.ts";
import type { Problem } from "../problems.ts";
import { EventList } from "./events.tsx";
import { bytes, type EventLog, grouped, plural, shortNode } from "./model.ts";
import { Chart, Node, Tile } from "./parts.tsx";
import { ProblemList } from "./problems.tsx";
import type { ViewProps } from "./view.ts";

export function Overview(
  { stats, samples, log, problems, onNode, ...shared }: ViewProps & {
    onNode: (node: string) => void;
    stats: Stats | null;
    samples: readonly Sample[];
    log: EventLog;
    problems: readonly Problem[];
  },
) {
  const last = samples.at(-1);
  const transports = Object.entries(stats?.transports ?? {})
    .map(([name, count]) => `${grouped(count)} ${name}`).join(", ");
  const { session, node, nodes } = shared;
  const heard = nodes.filter(({ isSilent }) => !isSilent).length;
  const isAll = node === "" && nodes.length > 1;
  const where = isAll
    ? heard === nodes.length
      ? `all ${heard} servers`
      : `${heard} of ${nodes.length} servers`
    : node === "" || node === session.node
    ? session.isShared || nodes.length > 1 ? "this server" : ""
    : `server ${shortNode(node)}`;
  const titled = (title: string) => where ? `${title}, ${where}` : title;
  return (
    <>
      <dl class="tiles">
        <Tile
          name="Connections"
          value={grouped(stats?.connections ?? 0)}
          hint={transports || (where && `on ${where}`)}
        />
        <Tile
          name="Channels"
          value={grouped(stats?.channels ?? 0)}
          hint={isAll
            ? "counted on each server"
            : where
            ? `on ${where}`
            : "with subscribers"}
        />
        <Tile
          name="Messages in"
          value={grouped(last?.received ?? 0)}
          hint="a second"
        />
        <Tile
          name="Messages out"
          value={grouped(last?.sent ?? 0)}
          hint="a second"
        />
        <Tile
          name="Unread"
          value={bytes(stats?.bufferedBytes ?? 0)}
          hint="not taken by clients yet"
        />
        <Tile
          name="History"
          value={bytes(stats?.historyBytes ?? 0)}
          hint={[
            plural(stats?.historyEvents ?? 0, "event"),
            plural(
              (stats?.sessions ?? 0) + (stats?.sessionsAway ?? 0),
              "recovery session",
            ),
          ].join(", ")}
        />
      </dl>
      <div class="charts">
        <Chart
          title={titled("Connections")}
          unit=""
          samples={samples}
          series={[{ name: "open", valueOf: (one) => one.connections }]}
        />
        <Chart
          title={titled("Messages")}
          unit="a second"
          samples={samples}
          series={[
            { name: "in", valueOf: (one) => one.received },
            { name: "out", valueOf: (one) => one.sent },
          ]}
        />
      </div>
      <Servers {...shared} onNode={onNode} />
      <div class="columns">
        <section aria-labelledby="latest-events">
          <h2 id="latest-events">
            <a href="#/events">Latest events</a>
          </h2>
          <EventList events={log.shown.slice(0, 8)} nodes={nodes} />
        </section>
        <section aria-labelledby="latest-problems">
          <h2 id="latest-problems">
            <a href="#/problems">Latest problems</a>
          </h2>
          <ProblemList problems={problems.slice(0, 4)} nodes={nodes} />
        </section>
      </div>
    </>
  );
}

/** The servers of the cluster, where there are several. */
function Servers(
  { session, node, nodes, unheard, onNode }: ViewProps & {
    onNode: (node: string) => void;
  },
) {
  if (nodes.length + unheard <= 1) return null;
  return (
    <section aria-labelledby="servers">
      <h2 id="servers">Servers</h2>
      <ul class="servers">
        {nodes.map((one) => (
          <li key={one.node} class={one.isSilent ? "silent" : ""}>
            <button
              type="button"
              aria-pressed={node === one.node}
              onClick={() =>
                onNode(node === one.node ? "" : one.node)}
            >
              <Node of={one.node} />
              {one.node === session.node && <span>this</span>}
              {one.isSilent
                ? <b>silent</b>
                : <span>{plural(one.connections, "connection")}</span>}
            </button>
          </li>
        ))}
      </ul>
      {unheard > 0 && (
        <p class="note warning">
          {plural(unheard, "more server")} {unheard === 1 ? "has" : "have"}{" "}
          said nothing yet.
        </p>
      )}
    </section>
  );
}
