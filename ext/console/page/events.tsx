/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view of events, as they happen.
 *
 * @module
 */

import type { FeedEvent } from "../feed.ts";
import type { NodeState } from "../streams.ts";
import {
  clockTime,
  type EventLog,
  grouped,
  plural,
  pretty,
  shortNode,
  WORDS,
} from "./model.ts";
import { Field, Node, Text } from "./parts.tsx";
import type { ViewProps } from "./view.ts";

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
export function EventList(
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
