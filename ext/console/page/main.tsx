/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The page of the debug console: it logs in, reads the stream, and shows one view.
 *
 * @module
 */

import { render } from "npm:preact@11.2.0";
import { useEffect, useRef, useState } from "npm:preact@11.2.0/hooks";
import type { Stats } from "../../../core/calls.ts";
import type { Problem } from "../problems.ts";
import type { Sample } from "../figures.ts";
import type { NodeState, Updates } from "../streams.ts";
import { get, openStream, post, Refused } from "./api.ts";
import { Channels } from "./channels.tsx";
import { Connections } from "./connections.tsx";
import { type EventFilter, Events } from "./events.tsx";
import { EventLog, plural, shortNode, withSample } from "./model.ts";
import { Overview } from "./overview.tsx";
import { Choice, Field, useSettled } from "./parts.tsx";
import { ProblemList } from "./problems.tsx";
import { Trigger } from "./trigger.tsx";
import type { Session } from "./view.ts";

const VIEWS = Object.freeze(
  {
    overview: "Overview",
    connections: "Connections",
    channels: "Channels",
    events: "Events",
    problems: "Problems",
    trigger: "Trigger",
  } as const,
);

type View = keyof typeof VIEWS;

function viewNow(): View {
  const name = location.hash.slice(2);
  return Object.hasOwn(VIEWS, name) ? name as View : "overview";
}

/** How often a screen reader hears how many events there were. */
const SAID_MS = 10_000;

// ---- The log-in -------------------------------------------------------------

function LogIn({ onDone }: { onDone: () => void }) {
  const [password, setPassword] = useState("");
  const [error, setError] = useState("");
  return (
    <main class="alone">
      <h1>Pusher console</h1>
      <form
        class="card"
        onSubmit={async (submitted) => {
          submitted.preventDefault();
          try {
            await post("login", { password });
            onDone();
          } catch (failure) {
            setError((failure as Refused).message);
          }
        }}
      >
        <Field
          label="Password"
          type="password"
          autocomplete="current-password"
          required
          value={password}
          onInput={setPassword}
        />
        {error && <p class="error" role="alert">{error}.</p>}
        <div class="actions">
          <button type="submit" class="main">Open</button>
        </div>
      </form>
    </main>
  );
}

// ---- The page ---------------------------------------------------------------

function App() {
  const [session, setSession] = useState<Session | null>(null);
  const [denied, setDenied] = useState<Refused | null>(null);
  const begin = async () => {
    try {
      setSession(await get<Session>("session"));
      setDenied(null);
    } catch (failure) {
      if (!(failure instanceof Refused)) throw failure;
      setDenied(failure);
      setSession(null);
    }
  };
  useEffect(() => void begin(), []);
  if (denied?.takesPassword) return <LogIn onDone={begin} />;
  if (denied !== null) {
    return (
      <main class="alone">
        <h1>Pusher console</h1>
        <p class="error" role="alert">{denied.message}.</p>
        <button type="button" onClick={begin}>Try again</button>
      </main>
    );
  }
  if (session === null) return null;
  return <Page session={session} onRefused={begin} />;
}

function Page(
  { session, onRefused }: { session: Session; onRefused: () => void },
) {
  const [view, setView] = useState(viewNow);
  const [app, setApp] = useState("");
  const [node, setNode] = useState("");
  const [nodes, setNodes] = useState<readonly NodeState[]>([]);
  const [unheard, setUnheard] = useState(0);
  const [filter, setFilter] = useState<EventFilter>({
    kinds: session.kinds,
    channel: "",
    event: "",
    search: "",
  });
  const [stats, setStats] = useState<Stats | null>(null);
  const [samples, setSamples] = useState<readonly Sample[]>([]);
  const [problems, setProblems] = useState<readonly Problem[]>([]);
  const [problemsVersion, setProblemsVersion] = useState(-1);
  const [state, setState] = useState<"opening" | "live" | "away">("opening");
  const [notice, setNotice] = useState({ text: "", isError: false });
  const [said, setSaid] = useState("");
  const [, redraw] = useState(0);
  const log = useRef(new EventLog()).current;
  const counted = useRef(0);
  const heading = useRef<HTMLHeadingElement>(null);
  const settled = useSettled(filter);

  useEffect(() => {
    const change = () => {
      setView(viewNow());
      heading.current?.focus();
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);

  useEffect(() => {
    document.title = `${VIEWS[view]} – Pusher console`;
    // On a phone it may be out of sight.
    document.querySelector(".views [aria-current]")
      ?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [view]);

  useEffect(
    () =>
      openStream({ app, node, ...settled, kinds: settled.kinds.join() }, {
        onUpdate(name, update) {
          if (name === "hello") {
            setSamples((update as Updates["hello"]).samples);
          } else if (name === "tick") {
            const tick = update as Updates["tick"];
            const { sample } = tick;
            setStats(tick.stats);
            setNodes(tick.nodes);
            setUnheard(tick.unheard);
            if (sample !== null) {
              setSamples((before) => withSample(before, sample));
            }
            setProblemsVersion(tick.problems);
          } else {
            const { events, skipped } = update as Updates["events"];
            log.add(events, skipped);
            counted.current += events.length + skipped;
            redraw((before) => before + 1);
          }
        },
        onState(isOpen, error) {
          setState(isOpen ? "live" : "away");
          if (error?.status === 401) onRefused();
          // That there is no answer is told in the header.
          else if (error && error.status > 0) say(error.message, true);
        },
      }),
    [app, node, JSON.stringify(settled)],
  );

  useEffect(() => {
    if (problemsVersion < 0) return;
    get<{ problems: readonly Problem[] }>("problems", { node })
      .then((answer) => setProblems(answer.problems), () => {});
  }, [problemsVersion, node]);

  // Each event would be too much to listen to.
  useEffect(() => {
    const timer = setInterval(() => {
      const count = counted.current;
      counted.current = 0;
      setSaid(count > 0 ? `${plural(count, "event")} in ten seconds` : "");
    }, SAID_MS);
    return () => clearInterval(timer);
  }, []);

  const say = (text: string, isError = false) => setNotice({ text, isError });
  const shared = {
    ...{ session, app, node, nodes, unheard, say },
    onRefused: () => onRefused(),
  };
  const views = {
    overview: () => (
      <Overview
        {...{ ...shared, stats, samples, log, problems }}
        onNode={setNode}
      />
    ),
    connections: () => <Connections {...shared} />,
    channels: () => <Channels {...shared} />,
    events: () => (
      <Events
        {...{ ...shared, log, filter, onFilter: setFilter }}
        onPause={() => {
          log.pause(!log.isPaused);
          redraw((before) => before + 1);
        }}
        onClear={() => {
          log.clear();
          redraw((before) => before + 1);
        }}
      />
    ),
    problems: () => <ProblemList problems={problems} nodes={nodes} />,
    trigger: () => <Trigger {...shared} />,
  };
  const isReady = stats?.ready ?? true;
  return (
    <>
      <header class="top">
        <button
          type="button"
          class="skip"
          onClick={() => heading.current?.focus()}
        >
          Skip to the content
        </button>
        <p class="brand">
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <path d="M1 9h3l2-6 3 10 2-4h4" />
          </svg>
          Pusher console
        </p>
        <p class="state">
          <span class={`dot ${isReady ? state : "away"}`} aria-hidden="true" />
          {state === "live"
            ? isReady ? "live" : "backplane away"
            : state === "away"
            ? "reconnecting …"
            : "connecting …"}
        </p>
        {session.isShared && nodes.length <= 1 && (
          <p class="node" title={session.node}>
            server <code>{shortNode(session.node)}</code>
          </p>
        )}
        {(nodes.length > 1 || node !== "") && (
          <Choice
            label="Server"
            value={node}
            options={[
              ["", `All ${nodes.length}`],
              ...nodes.map((one) =>
                [
                  one.node,
                  shortNode(one.node) +
                  (one.node === session.node ? " (this)" : "") +
                  (one.isSilent ? " (silent)" : ""),
                ] as const
              ),
              ...(node === "" || nodes.some((one) => one.node === node)
                ? []
                : [[node, `${shortNode(node)} (gone)`] as const]),
            ]}
            onChange={setNode}
          />
        )}
        {session.apps.length > 1 && (
          <Choice
            label="App"
            value={app}
            options={[
              ["", "All apps"],
              ...session.apps.map((id) => [id, id] as const),
            ]}
            onChange={setApp}
          />
        )}
        {session.takesPassword && (
          <button
            type="button"
            class="quiet"
            onClick={async () => {
              await post("logout", {}).catch(() => {});
              onRefused();
            }}
          >
            Log out
          </button>
        )}
      </header>
      <nav class="views" aria-label="Views">
        {Object.entries(VIEWS).map(([name, text]) => (
          <a
            key={name}
            href={`#/${name}`}
            aria-current={name === view ? "page" : undefined}
          >
            {text}
            {name === "problems" && problems.length > 0 && (
              <span class="count">{problems.length}</span>
            )}
          </a>
        ))}
      </nav>
      <main>
        <h1
          // It takes the focus when the view changes.
          ref={heading}
          tabIndex={-1}
        >
          {VIEWS[view]}
        </h1>
        <p
          class={`notice ${notice.isError ? "error" : "done"}`}
          role={notice.isError ? "alert" : "status"}
          hidden={notice.text === ""}
        >
          <bdi class="text">{notice.text}</bdi>
          <button
            type="button"
            class="quiet"
            aria-label="Close the message"
            onClick={() => say("")}
          >
            ✕
          </button>
        </p>
        {views[view]()}
        <p class="hidden" role="status">{said}</p>
      </main>
    </>
  );
}

// The page of the server has it.
render(<App />, document.getElementById("app")!);
