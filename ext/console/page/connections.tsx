/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view of connections: a list, and the details of each.
 *
 * @module
 */

import { useEffect, useState } from "npm:preact@11.2.0/hooks";
import type { ConnectionRow, MergedPage } from "../lists.ts";
import { post, type Refused } from "./api.ts";
import { age, bytes, grouped } from "./model.ts";
import {
  Dialog,
  Field,
  Node,
  Pager,
  Silence,
  Text,
  useAnswer,
  useListing,
} from "./parts.tsx";
import type { ViewProps } from "./view.ts";

export function Connections(
  { app, node, nodes, onRefused, say }: ViewProps,
) {
  const list = useListing({ by: "age", order: "up" });
  const [asked, setAsked] = useState<ConnectionRow | null>(null);
  const { answer, error, again } = useAnswer<MergedPage & { silent: number }>(
    "connections",
    { app, node, ...list.query },
    onRefused,
  );
  const { rows = [], found = 0, total = 0, silent = 0 } = answer ?? {};
  const { reach = found } = answer ?? {};
  const isMany = nodes.length > 1;
  useEffect(list.restart, [node]);
  const disconnect = async (reconnects: boolean) => {
    const { socketId = "", node: of = "" } = asked ?? {};
    setAsked(null);
    try {
      await post("disconnect", { socketId, node: of, reconnects });
      say(`Connection ${socketId} is closed`);
    } catch (failure) {
      say((failure as Refused).message, true);
    }
    again();
  };
  return (
    <>
      <div class="tools" role="search">
        <Field
          label="Search connections"
          placeholder="user, address, channel, library …"
          value={list.search}
          onInput={list.setSearch}
        />
        <Pager
          {...list.pager}
          {...{ found, total, reach }}
          what="connections"
        />
      </div>
      <Silence count={silent} what="connections" />
      {reach < found && (
        <p class="note">
          Over all servers the first {grouped(reach)}{" "}
          are listed. Search, or choose a server, to see the others.
        </p>
      )}
      {error && <p class="error" role="alert">{error}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="Connections">
        <table>
          <thead>
            <tr>
              <th scope="col">Connection</th>
              {isMany && <th scope="col">Server</th>}
              {list.head("User", "user")}
              {list.head("Client", "library")}
              {list.head("Channels", "channels")}
              {list.head("Unread", "buffered", true)}
              {list.head("Age", "age", true)}
              {list.head("Address", "address")}
              <th scope="col">
                <span class="hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.socketId}>
                <td data-label="Connection">
                  <code>{row.socketId}</code>
                </td>
                {isMany && (
                  <td data-label="Server">
                    <Node of={row.node} />
                  </td>
                )}
                <td data-label="User">
                  <Text of={row.userId} />
                </td>
                <td data-label="Client">
                  <span>
                    <Text of={row.library} empty="unknown" />{" "}
                    <span class="badge">{row.transport}</span>
                  </span>
                </td>
                <td data-label="Channels">
                  <span class="chips">
                    {row.channels.slice(0, 3).map((name) => (
                      <span key={name} class="chip">
                        <Text of={name} />
                      </span>
                    ))}
                    {row.channelCount > 3 && (
                      <span class="more">+{grouped(row.channelCount - 3)}</span>
                    )}
                    {row.channelCount === 0 && <Text />}
                  </span>
                </td>
                <td data-label="Unread" class="number">
                  {bytes(row.bufferedBytes)}
                </td>
                <td data-label="Age" class="number">{age(row.ageMs)}</td>
                <td data-label="Address">
                  <Text of={row.address} empty="unknown" />
                </td>
                <td>
                  <button
                    type="button"
                    class="quiet"
                    aria-label={`Details of connection ${row.socketId}`}
                    onClick={() => setAsked(row)}
                  >
                    Details
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
            ? "Nobody is connected."
            : "No connection fits the search."}
        </p>
      )}
      {asked && (
        <Dialog title="Connection" onClose={() => setAsked(null)}>
          <dl class="facts">
            <dt>Socket id</dt>
            <dd>
              <code>{asked.socketId}</code>
            </dd>
            {isMany && (
              <>
                <dt>Server</dt>
                <dd>
                  <code>{asked.node}</code>
                </dd>
              </>
            )}
            <dt>App</dt>
            <dd>
              <Text of={asked.app} />
            </dd>
            <dt>User</dt>
            <dd>
              <Text of={asked.userId} empty="not signed in" />
            </dd>
            <dt>Client</dt>
            <dd>
              <Text of={asked.library} empty="unknown" />, {asked.transport}
            </dd>
            <dt>Address</dt>
            <dd>
              <Text of={asked.address} empty="unknown" />
            </dd>
            <dt>Channels</dt>
            <dd class="chips">
              {asked.channels.map((name) => (
                <span key={name} class="chip">
                  <Text of={name} />
                </span>
              ))}
              {asked.channelCount > asked.channels.length &&
                ` and ${asked.channelCount - asked.channels.length} more`}
              {asked.channelCount === 0 && "none"}
            </dd>
          </dl>
          <div class="actions">
            <button type="button" onClick={() => disconnect(true)}>
              Let it reconnect
            </button>
            <button
              type="button"
              class="danger"
              onClick={() => disconnect(false)}
            >
              Disconnect
            </button>
          </div>
          <p class="note">
            A client that is disconnected (4009) does not come back by itself.
          </p>
        </Dialog>
      )}
    </>
  );
}
