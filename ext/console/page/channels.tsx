/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view of channels: a list, and the details of each.
 *
 * @module
 */

import { useState } from "npm:preact@11.2.0/hooks";
import type { Subscriber } from "../cluster.ts";
import type { ChannelRow, ListPage } from "../lists.ts";
import type { NodeState } from "../streams.ts";
import { post, type Refused } from "./api.ts";
import { age, grouped } from "./model.ts";
import {
  Choice,
  Dialog,
  Field,
  Node,
  Pager,
  Text,
  useAnswer,
  useListing,
} from "./parts.tsx";
import type { ViewProps } from "./view.ts";

const CHANNEL_KINDS = [
  ["", "All"],
  ["public", "Public"],
  ["private", "Private"],
  ["presence", "Presence"],
  ["encrypted", "Encrypted"],
  ["cache", "Cache"],
] as const;

export function Channels(
  { app, node, nodes, session, onRefused, say }: ViewProps,
) {
  const list = useListing({ by: "subscriptions", order: "down" });
  const [kind, setKind] = useState("");
  const [seen, setSeen] = useState<ChannelRow | null>(null);
  const query = { app: app || session.apps[0] || "", kind, ...list.query };
  const { answer, error } = useAnswer<ListPage<ChannelRow>>(
    "channels",
    query,
    onRefused,
  );
  const { rows = [], found = 0, total = 0 } = answer ?? {};
  return (
    <>
      <div class="tools" role="search">
        <Field
          label="Search channels"
          placeholder="part of the name"
          value={list.search}
          onInput={list.setSearch}
        />
        <Choice
          label="Kind"
          value={kind}
          options={CHANNEL_KINDS}
          onChange={(value) => {
            setKind(value);
            list.restart();
          }}
        />
        <Pager
          {...list.pager}
          {...{ found, total }}
          what="channels"
        />
      </div>
      {node !== "" && (
        <p class="note">
          Channels, their subscribers and users are those of all servers.
        </p>
      )}
      {error && <p class="error" role="alert">{error}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="Channels">
        <table>
          <thead>
            <tr>
              {list.head("Channel", "name")}
              {list.head("Kind", "kind")}
              {list.head("Subscribers", "subscriptions", true)}
              {list.head("Users", "users", true)}
              <th scope="col">
                <span class="hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.name}>
                <td data-label="Channel">
                  <Text of={row.name} />
                </td>
                <td data-label="Kind">
                  <span>
                    {row.kinds.map((one) => (
                      <span key={one} class={`badge ${one}`}>{one}</span>
                    ))}
                  </span>
                </td>
                <td data-label="Subscribers" class="number">
                  {grouped(row.subscriptions)}
                </td>
                <td data-label="Users" class="number">
                  {row.users === undefined ? <Text /> : grouped(row.users)}
                </td>
                <td>
                  <button
                    type="button"
                    class="quiet"
                    onClick={() => setSeen(row)}
                  >
                    Details<span class="hidden">{` of ${row.name}`}</span>
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {answer !== null && found === 0 && (
        <p class="empty">
          {total === 0
            ? "Nobody is subscribed to a channel."
            : "No channel fits."}
        </p>
      )}
      {seen && (
        <ChannelDialog
          {...{ app: query.app, name: seen.name, onRefused, say }}
          nodes={nodes}
          onClose={() => setSeen(null)}
        />
      )}
    </>
  );
}

interface ChannelDetails {
  readonly kinds: readonly string[];
  readonly subscriptions: number;
  readonly users?: number;
  readonly members: readonly string[];
  readonly subscribers: readonly Subscriber[];
  readonly cache?: { readonly data: string; readonly ttl: number } | null;
}

function ChannelDialog(
  { app, name, nodes, onRefused, say, onClose }: {
    app: string;
    name: string;
    nodes: readonly NodeState[];
    onRefused: (error: Refused) => void;
    say: ViewProps["say"];
    onClose: () => void;
  },
) {
  const { answer, error, again } = useAnswer<ChannelDetails>(
    "channel",
    { app, name },
    onRefused,
  );
  const disconnect = async (userId: string) => {
    try {
      await post("disconnect-user", { app, userId });
      say(`The connections of user ${userId} are closed, if it has signed in`);
    } catch (failure) {
      say((failure as Refused).message, true);
    }
    again();
  };
  return (
    <Dialog title="Channel" onClose={onClose}>
      <p class="big">
        <Text of={name} />
      </p>
      {error && <p class="error" role="alert">{error}</p>}
      {answer && (
        <dl class="facts">
          <dt>Kind</dt>
          <dd>{answer.kinds.join(", ")}</dd>
          <dt>Subscribers</dt>
          <dd>{grouped(answer.subscriptions)}</dd>
          {answer.users !== undefined && (
            <>
              <dt>{`Users (${grouped(answer.users)})`}</dt>
              <dd>
                <ul class="members">
                  {answer.members.map((id) => (
                    <li key={id}>
                      <Text of={id} />
                      <button
                        type="button"
                        class="quiet"
                        onClick={() => disconnect(id)}
                      >
                        Disconnect<span class="hidden">{` user ${id}`}</span>
                      </button>
                    </li>
                  ))}
                </ul>
              </dd>
            </>
          )}
          {answer.cache && (
            <>
              <dt>Last event, for {age(answer.cache.ttl * 1000)} more</dt>
              <dd>
                <pre tabIndex={0}><Text of={answer.cache.data} /></pre>
              </dd>
            </>
          )}
          <dt>Connections</dt>
          <dd class="chips">
            {answer.subscribers.map(({ node, socketId }) => (
              <span key={socketId} class="chip">
                <code>{socketId}</code>
                {nodes.length > 1 && (
                  <>
                    <Node of={node} />
                  </>
                )}
              </span>
            ))}
            {answer.subscribers.length === 0 && "none"}
          </dd>
        </dl>
      )}
    </Dialog>
  );
}
