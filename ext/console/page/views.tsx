/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The views of the page.
 *
 * @module
 */

import { useEffect, useState } from "npm:preact@11.2.0/hooks";
import type { Stats } from "../../../core/calls.ts";
import type { FeedEvent } from "../feed.ts";
import type { Subscriber } from "../cluster.ts";
import type { Sample } from "../figures.ts";
import type {
  ChannelRow,
  ConnectionRow,
  ListPage,
  MergedPage,
} from "../lists.ts";
import type { Problem } from "../problems.ts";
import type { NodeState } from "../streams.ts";
import { post, type Refused } from "./api.ts";
import {
  age,
  bytes,
  clockTime,
  type EventLog,
  grouped,
  plural,
  pretty,
  shortNode,
  WORDS,
} from "./model.ts";
import {
  Chart,
  Choice,
  Dialog,
  Field,
  Node,
  Pager,
  Sentence,
  Silence,
  SortHead,
  Text,
  Tile,
  useAnswer,
  useSettled,
} from "./parts.tsx";

/** What the server says of itself. */
export interface Session {
  readonly node: string;
  readonly isShared: boolean;
  readonly apps: readonly string[];
  readonly kinds: readonly string[];
  readonly takesPassword: boolean;
}

/** What all views get. */
export interface ViewProps {
  readonly session: Session;
  /** The app that is shown; "" for all. */
  readonly app: string;
  /** The server that is shown; "" for all. */
  readonly node: string;
  /** All servers, this one first. */
  readonly nodes: readonly NodeState[];
  /** How many more there are, which have said nothing. */
  readonly unheard: number;
  readonly onRefused: (error: Refused) => void;
  /** Says what an action has led to. */
  readonly say: (text: string, isError?: boolean) => void;
}

const SIZE = 50;

// ---- Overview ---------------------------------------------------------------

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

// ---- Connections ------------------------------------------------------------

type Sort = { by: string; order: "up" | "down" };

export function Connections(
  { app, node, nodes, onRefused, say }: ViewProps,
) {
  const [search, setSearch] = useState("");
  const [sort, setSort] = useState<Sort>({ by: "age", order: "up" });
  const [page, setPage] = useState(0);
  const [asked, setAsked] = useState<ConnectionRow | null>(null);
  const text = useSettled(search);
  const { answer, error, again } = useAnswer<MergedPage & { silent: number }>(
    "connections",
    {
      ...{ app, node, search: text, page, size: SIZE },
      ...{ sort: sort.by, order: sort.order },
    },
    onRefused,
  );
  const { rows = [], found = 0, total = 0, silent = 0 } = answer ?? {};
  const { reach = found } = answer ?? {};
  const isMany = nodes.length > 1;
  useEffect(() => setPage(0), [node]);
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
  const head = (name: string, by: string, isNumber = false) => (
    <SortHead
      {...{ name, by, sort, isNumber }}
      onSort={(next) => {
        setSort(next);
        setPage(0);
      }}
    />
  );
  return (
    <>
      <div class="tools" role="search">
        <Field
          label="Search connections"
          placeholder="user, address, channel, library …"
          value={search}
          onInput={(value) => {
            setSearch(value);
            setPage(0);
          }}
        />
        <Pager
          {...{ page, found, total, reach, size: SIZE, onPage: setPage }}
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
              {head("User", "user")}
              {head("Client", "library")}
              {head("Channels", "channels")}
              {head("Unread", "buffered", true)}
              {head("Age", "age", true)}
              {head("Address", "address")}
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

// ---- Channels ---------------------------------------------------------------

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
  const [search, setSearch] = useState("");
  const [kind, setKind] = useState("");
  const [sort, setSort] = useState<Sort>({
    by: "subscriptions",
    order: "down",
  });
  const [page, setPage] = useState(0);
  const [seen, setSeen] = useState<ChannelRow | null>(null);
  const text = useSettled(search);
  const query = {
    ...{ app: app || session.apps[0] || "", search: text, kind, page },
    ...{ sort: sort.by, order: sort.order, size: SIZE },
  };
  const { answer, error } = useAnswer<ListPage<ChannelRow>>(
    "channels",
    query,
    onRefused,
  );
  const { rows = [], found = 0, total = 0 } = answer ?? {};
  const head = (name: string, by: string, isNumber = false) => (
    <SortHead
      {...{ name, by, sort, isNumber }}
      onSort={(next) => {
        setSort(next);
        setPage(0);
      }}
    />
  );
  return (
    <>
      <div class="tools" role="search">
        <Field
          label="Search channels"
          placeholder="part of the name"
          value={search}
          onInput={(value) => {
            setSearch(value);
            setPage(0);
          }}
        />
        <Choice
          label="Kind"
          value={kind}
          options={CHANNEL_KINDS}
          onChange={(value) => {
            setKind(value);
            setPage(0);
          }}
        />
        <Pager
          {...{ page, found, total, size: SIZE, onPage: setPage }}
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
              {head("Channel", "name")}
              {head("Kind", "kind")}
              {head("Subscribers", "subscriptions", true)}
              {head("Users", "users", true)}
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

// ---- Events -----------------------------------------------------------------

/** What the stream is asked for. */
export interface EventFilter {
  readonly kinds: readonly string[];
  readonly channel: string;
  readonly event: string;
  readonly search: string;
}

export function Events(
  { session, nodes, node, log, filter, onFilter, ...on }: ViewProps & {
    log: EventLog;
    filter: EventFilter;
    onFilter: (filter: EventFilter) => void;
    onPause: () => void;
    onClear: () => void;
  },
) {
  const toggle = (kind: string) => {
    const { kinds } = filter;
    const next = kinds.includes(kind)
      ? kinds.filter((one) => one !== kind)
      : [...kinds, kind];
    onFilter({ ...filter, kinds: next });
  };
  const text = (name: "channel" | "event" | "search") => (value: string) =>
    onFilter({ ...filter, [name]: value });
  return (
    <>
      <div class="tools" role="search">
        <fieldset class="kinds">
          <legend class="hidden">Kinds of events</legend>
          {session.kinds.map((kind) => (
            <label key={kind} class={`toggle ${kind}`}>
              <input
                type="checkbox"
                checked={filter.kinds.includes(kind)}
                onChange={() =>
                  toggle(kind)}
              />
              {kind}
            </label>
          ))}
        </fieldset>
        <Field
          label="Channel"
          placeholder="any"
          value={filter.channel}
          onInput={text("channel")}
        />
        <Field
          label="Event"
          placeholder="any"
          value={filter.event}
          onInput={text("event")}
        />
        <Field
          label="Search"
          placeholder="anywhere, data too"
          value={filter.search}
          onInput={text("search")}
        />
        <div class="buttons">
          <button
            type="button"
            aria-pressed={log.isPaused}
            onClick={on.onPause}
          >
            {log.isPaused
              ? `Go on${log.waiting ? ` (${log.waiting} wait)` : ""}`
              : "Pause"}
          </button>
          <button type="button" class="quiet" onClick={on.onClear}>
            Clear
          </button>
        </div>
      </div>
      <p class="note">
        {nodes.length > 1
          ? node === ""
            ? "Events of all servers since this page was opened. "
            : `Events of server ${shortNode(node)}. `
          : "Events since this page was opened. "}
        {log.skipped > 0 && (
          <b>{plural(log.skipped, "event")} more came too fast to be shown.</b>
        )}
      </p>
      <EventList events={log.shown} nodes={nodes} />
    </>
  );
}

/** Events, the latest first. */
function EventList(
  { events, nodes }: {
    events: readonly FeedEvent[];
    nodes: readonly NodeState[];
  },
) {
  if (events.length === 0) {
    return <p class="empty">No event yet: they appear as they happen.</p>;
  }
  return (
    <ol class="events">
      {events.map((event) => (
        <EventItem
          key={`${event.node} ${event.n}`}
          event={event}
          isMany={nodes.length > 1}
        />
      ))}
    </ol>
  );
}

function EventItem(
  { event, isMany }: { event: FeedEvent; isMany: boolean },
) {
  const { at, kind, what, channel, data, units = 0, detail } = event;
  const isWhole = data !== undefined && units === data.length;
  const who = event.userId ?? event.socketId;
  return (
    <li class={kind}>
      <time dateTime={new Date(at).toISOString()}>{clockTime(at)}</time>
      <span class={`badge ${kind}`}>{WORDS[what]}</span>
      <span class="line">
        {channel && (
          <span class="channel">
            <Text of={channel} />
          </span>
        )}
        {event.event !== undefined && (
          <b>
            <Text of={event.event} />
          </b>
        )}
        {who && (
          <span class="who">
            <Text of={who} />
          </span>
        )}
        {detail && <Text of={detail} />}
        {event.isEncrypted && <i>encrypted, not shown</i>}
        {isMany && <Node of={event.node} />}
      </span>
      {data !== undefined && data !== "" && (
        <details>
          <summary>
            <span class="data">
              <Text of={data.slice(0, 200)} />
            </span>
          </summary>
          <pre
            tabIndex={0}
          ><bdi class="text">{pretty(data, isWhole)}</bdi></pre>
          {!isWhole && (
            <p class="note">
              Cut: the data has {grouped(units)} characters.
            </p>
          )}
        </details>
      )}
    </li>
  );
}

// ---- Problems ---------------------------------------------------------------

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

// ---- Trigger ----------------------------------------------------------------

export function Trigger({ app, session, say }: ViewProps) {
  const [channel, setChannel] = useState("");
  const [event, setEvent] = useState("");
  const [data, setData] = useState('{ "text": "hello" }');
  const [userId, setUserId] = useState("");
  const own = app || session.apps[0] || "";
  let isJson = true;
  try {
    JSON.parse(data);
  } catch {
    isJson = false;
  }
  const run = async (what: string, body: object, done: string) => {
    try {
      await post(what, { app: own, ...body });
      say(done);
    } catch (failure) {
      say((failure as Refused).message, true);
    }
  };
  return (
    <div class="columns">
      <form
        class="card"
        aria-labelledby="trigger-title"
        onSubmit={(submitted) => {
          submitted.preventDefault();
          run("trigger", { channel, event, data }, `Triggered ${event}`);
        }}
      >
        <h2 id="trigger-title">Trigger an event</h2>
        <Field
          label="Channel"
          required
          placeholder="my-channel"
          value={channel}
          onInput={setChannel}
        />
        <Field
          label="Event"
          required
          placeholder="my-event"
          value={event}
          onInput={setEvent}
        />
        <label class="field">
          <span>Data</span>
          <textarea
            rows={7}
            spellcheck={false}
            value={data}
            onInput={(input) => setData(input.currentTarget.value)}
          />
        </label>
        <p class="note">
          {isJson ? "It is JSON." : "It is no JSON, so clients get it as text."}
        </p>
        <div class="actions">
          <button type="submit" class="main">Trigger</button>
        </div>
      </form>
      <form
        class="card"
        aria-labelledby="user-title"
        onSubmit={(submitted) => {
          submitted.preventDefault();
          const done = `The connections of user ${userId} are closed`;
          run("disconnect-user", { userId }, done);
        }}
      >
        <h2 id="user-title">Disconnect a user</h2>
        <p class="note">
          Closes all connections that are signed in as the user, on all servers.
          Their clients do not reconnect by themselves.
        </p>
        <Field
          label="User id"
          required
          value={userId}
          onInput={setUserId}
        />
        <div class="actions">
          <button type="submit" class="danger">Disconnect</button>
        </div>
      </form>
    </div>
  );
}
