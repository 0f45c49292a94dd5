/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view of what was refused, and of what has failed.
 *
 * @module
 */

import type { Problem } from "../problems.ts";
import type { NodeState } from "../streams.ts";
import { clockTime, grouped } from "./model.ts";
import { Node, Sentence, Text } from "./parts.tsx";

export function ProblemList(
  { problems, nodes }: {
    problems: readonly Problem[];
    nodes: readonly NodeState[];
  },
) {
  if (problems.length === 0) {
    return <p class="empty">Nothing was refused, and nothing has failed.</p>;
  }
  return (
    <ol class="problem-list">
      {problems.map((one) => {
        const { what, code, app, reason, remedy, count, lastAt } = one;
        return (
          <li key={`${one.node} ${what} ${code} ${app} ${reason}`}>
            <p>
              <span class="badge problems">{what.replace("_", " ")}</span>
              {code !== undefined && <code>{code}</code>}
              <time dateTime={new Date(lastAt).toISOString()}>
                {clockTime(lastAt)}
              </time>
              {count > 1 && <b>{grouped(count)} times</b>}
              {nodes.length > 1 && <Node of={one.node} />}
            </p>
            <p class="reason">
              <Sentence of={reason} />
            </p>
            {(one.channel || one.socketId) && (
              <p class="where">
                {one.channel && <Text of={one.channel} />}{" "}
                {one.socketId && <code>{one.socketId}</code>}
              </p>
            )}
            {remedy && (
              <p class="remedy">
                <b>Remedy:</b> <Sentence of={`${remedy}.`} />
              </p>
            )}
          </li>
        );
      })}
    </ol>
  );
}
