/**
 * Items 92-97: HTTP streaming and polling, for networks without WebSocket.
 *
 * @module
 */
import { type Bench, HttpFront, type Sections } from "./bench.ts";
import { type HttpTransport, RELEASES, type StockClient } from "./stock.ts";
import {
  type App,
  channelAuth,
  dataOf,
  DEADLINE_MS,
  type Frame,
  hold,
  pause,
  Queue,
  same,
  show,
} from "./wire.ts";

const TRANSPORTS: readonly HttpTransport[] = ["xhr_streaming", "xhr_polling"];

/** A burst that is longer than what a client takes in one answer. */
const BURST = { events: 200, bytes: 9_000 };
/** So many of them may be under way, which any server's buffer holds. */
const BURST_AHEAD = 100;
/** Events of one request. */
const BATCH = 10;

/** How long an empty request may be without a line, far less than to a heartbeat. */
const LINE_MS = 15_000;
/** How long a client may be away. */
const ABSENCE_MS = 5_000;
/** Beyond what is said in seconds, on a busy machine. */
const SLACK_MS = DEADLINE_MS;

/** Every release of pusher-js over every transport, connecting. */
function stocks(t: Bench, key?: string): [name: string, StockClient][] {
  return RELEASES.flatMap((release) =>
    TRANSPORTS.map((transport): [string, StockClient] => [
      `pusher-js ${release} over ${transport}`,
      t.stock(release, { transport, ...(key === undefined ? {} : { key }) }),
    ])
  );
}

/** A session that is spoken to request by request. */
class HttpSession {
  /** Set once the server has said it. */
  id = "";
  readonly #app: App;
  readonly #base: string;
  #lines = new Queue<string>();
  #answer: AbortController | undefined;

  constructor(origin: string, app: App) {
    const server = Math.floor(Math.random() * 1000);
    const session = crypto.randomUUID().slice(0, 8);
    this.#app = app;
    this.#base = `${origin}/pusher/app/${app.key}/${server}/${session}`;
  }

  /** Asks for lines, in place of the answer at hand. */
  async receive(kind: "xhr_streaming" | "xhr"): Promise<Response> {
    this.abort();
    const answer = new AbortController();
    this.#answer = answer;
    const lines = new Queue<string>();
    this.#lines = lines;
    const { signal } = answer;
    const url = `${this.#base}/${kind}?protocol=7`;
    const response = await fetch(url, { method: "POST", signal });
    same(response.status, 200, `status of ${kind}`);
    const read = async () => {
      let text = "";
      const decoded = response.body!.pipeThrough(new TextDecoderStream());
      for await (const chunk of decoded) {
        const parts = (text + chunk).split("\n");
        text = parts.pop() ?? "";
        // What comes before the first line defeats buffers, and says nothing.
        for (const line of parts) if (!/^hh+$/.test(line)) lines.push(line);
      }
      lines.end("answer ended");
    };
    read().catch(() => lines.end("answer broken off"));
    return response;
  }

  /** Breaks the answer at hand off. */
  abort(): void {
    this.#answer?.abort();
  }

  /** Takes the next line. */
  async line(what: string, ms = DEADLINE_MS): Promise<string> {
    return (await this.#lines.upTo(() => true, what, ms))[0]!;
  }

  /** Takes lines up to one with the named event, and returns its frame. */
  async frame(event: string): Promise<Frame> {
    for (;;) {
      const line = await this.line(event);
      hold(/^[am]/.test(line), `expected ${event}, saw ${show(line)}`);
      for (const text of [JSON.parse(line.slice(1))].flat()) {
        const frame = JSON.parse(text) as Frame;
        if (frame.event === event) return frame;
      }
    }
  }

  /** Opens it; frames come in the same answer or the next one. */
  async open(kind: "xhr_streaming" | "xhr"): Promise<void> {
    await this.receive(kind);
    const line = await this.line("o");
    hold(line.startsWith("o"), `expected o, saw ${show(line)}`);
    if (kind === "xhr") return;
    const frame = await this.frame("pusher:connection_established");
    this.id = dataOf(frame).socket_id;
  }

  /** Sends a body, which has to be taken. */
  async post(body: string): Promise<Response> {
    const response = await fetch(`${this.#base}/xhr_send`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
    });
    await response.body?.cancel();
    hold(response.ok, `xhr_send answers ${response.status}`);
    return response;
  }

  /** Joins a presence channel as a user. */
  async join(channel: string, user_id: string): Promise<void> {
    const channel_data = JSON.stringify({ user_id });
    const auth = channelAuth(this.#app, this.id, channel, channel_data);
    const data = { channel, auth, channel_data };
    await this.post(
      JSON.stringify([JSON.stringify({ event: "pusher:subscribe", data })]),
    );
    await this.frame("pusher_internal:subscription_succeeded");
  }

  [Symbol.dispose](): void {
    this.abort();
  }
}

function session(t: Bench): HttpSession {
  return t.use(new HttpSession(t.host.origin, t.app));
}

/** Publishes a burst, numbered, never far ahead of what has arrived. */
async function publishBurst(
  t: Bench,
  channel: string,
  arrived: Queue<number>,
): Promise<number[]> {
  const pad = "x".repeat(BURST.bytes);
  const seen: number[] = [];
  for (let first = 0; first < BURST.events; first += BATCH) {
    const behind = first + BATCH - BURST_AHEAD;
    while (seen.length < behind) {
      seen.push(...await arrived.upTo(() => true, `event ${seen.length}`));
    }
    const batch = Array.from({ length: BATCH }, (_, n) => ({
      name: "burst",
      channel,
      data: JSON.stringify({ n: first + n, pad }),
    }));
    const answer = await t.api.post("/batch_events", { batch });
    same(answer.status, 200, `a batch answers ${show(answer.text)}`);
  }
  while (seen.length < BURST.events) {
    seen.push(...await arrived.upTo(() => true, `event ${seen.length}`));
  }
  return seen;
}

export const HTTP_TRANSPORTS: Sections = [["HTTP transports", [
  {
    number: 92,
    title:
      "pusher-js over xhr_streaming and xhr_polling: connects, gets, sends",
    needs: { "client-events": true },
    async run(t) {
      const clients = stocks(t);
      for (const [name, client] of clients) {
        const room = t.name("private-");
        const socket = await t.joined(room);
        const { channel, inbox } = await client.join(room);
        await t.api.publish(room, "create", `"zoë ✓"`);
        same(await inbox.data("create"), "zoë ✓", `event at ${name}`);
        await socket.next("create");
        channel.trigger("client-hi", { n: 1 });
        same(dataOf(await socket.next("client-hi")), { n: 1 }, `from ${name}`);
      }
      return `${clients.length} combinations of release and transport`;
    },
  },
  {
    number: 93,
    title: "200 frames of 9 kB in a burst arrive in order over streaming",
    async run(t) {
      const channel = t.name();
      const client = t.stock(8, { transport: "xhr_streaming" });
      const arrived = new Queue<number>();
      const joined = await client.join(channel);
      joined.channel.bind("burst", (data) => arrived.push(Object(data).n));
      await client.connection.data("connected");
      const lost = client.connection.data("connecting", 2 * DEADLINE_MS);
      const seen = await Promise.race([
        publishBurst(t, channel, arrived),
        lost.then(() => [], () => []),
      ]);
      hold(seen.length > 0, "the connection was lost");
      same(seen, Array.from({ length: BURST.events }, (_, n) => n), "order");
      return `${seen.length} events, in order`;
    },
  },
  {
    number: 94,
    title: "Unknown key over HTTP: pusher-js is told 4001 and is disconnected",
    async run(t) {
      const clients = stocks(t, t.name("no-such-key-"));
      await Promise.all(clients.map(async ([name, client]) => {
        // A client that has to guess, after 15 s, knows no code.
        const { error } = await client.connection.data("error");
        same(error?.data?.code, 4001, `code at ${name}`);
        await client.connection.data("disconnected");
      }));
      return `${clients.length} times 4001`;
    },
  },
  {
    number: 95,
    title: "[] is answered by a line at once, and no request loop follows",
    isSlow: true,
    async run(t) {
      const streaming = session(t);
      await streaming.open("xhr_streaming");
      await streaming.post("[]");
      const first = await streaming.line("line for []", LINE_MS);
      const polling = session(t);
      await polling.open("xhr");
      await polling.receive("xhr");
      await polling.post("[]");
      await polling.line("line for []", LINE_MS);

      // A client that hears nothing for a second asks for a line.
      const front = t.use(new HttpFront(t.host.origin));
      const atLeast = 4;
      const counts: string[] = [];
      for (const transport of TRANSPORTS) {
        const client = t.stock(8, {
          transport,
          origin: front.origin,
          activityTimeout: 1_000,
        });
        await client.connection.data("connected");
        const before = front.requests.length;
        const startedAt = performance.now();
        await pause(atLeast * 1_000);
        const count = front.requests.length - before;
        const seconds = Math.ceil((performance.now() - startedAt) / 1_000);
        same(client.pusher.connection.state, "connected", "state");
        hold(count > 0, `${transport} asked for no line`);
        // One to ask, and one that comes of the answer.
        hold(count <= 3 * seconds, `${count} requests in ${seconds} s`);
        counts.push(`${transport} ${count}`);
        client.close();
      }
      return `${first}; requests in ${atLeast} s: ${counts.join(", ")}`;
    },
  },
  {
    number: 96,
    title: "Away for over 5 s: the member is gone; back before: no second o",
    isSlow: true,
    async run(t) {
      const channel = t.name("presence-");
      const observer = await t.joined(channel, { user_id: "observer" });
      const client = session(t);
      await client.open("xhr_streaming");
      await client.join(channel, "ann");
      await observer.next("pusher_internal:member_added");

      client.abort();
      await pause(ABSENCE_MS / 2);
      await client.receive("xhr_streaming");
      await t.api.publish(channel, "mark", "{}");
      const line = await client.line("event after coming back");
      hold(line.startsWith("a"), `expected frames, saw ${show(line)}`);
      hold(line.includes("mark"), `expected the event, saw ${show(line)}`);
      await observer.next("mark");

      client.abort();
      const leftAt = performance.now();
      await observer.next(
        "pusher_internal:member_removed",
        2 * ABSENCE_MS + SLACK_MS,
      );
      const ms = performance.now() - leftAt;
      hold(ms >= ABSENCE_MS - 100, `gone after ${Math.round(ms)} ms already`);
      return `back after ${ABSENCE_MS / 2000} s, ` +
        `gone after ${(ms / 1000).toFixed(1)} s`;
    },
  },
  {
    number: 97,
    title: "Cross-origin preflight passes, and pages may read the answers",
    async run(t) {
      const base = `${t.host.origin}/pusher/app/${t.app.key}/0/preflig0`;
      const origin = "https://example.com";
      const allows = (response: Response) => {
        const allowed = response.headers.get("access-control-allow-origin");
        hold(
          allowed === "*" || allowed === origin,
          `allowed origin is ${allowed}`,
        );
      };
      const lists = ({ headers }: Response, name: string, item: string) => {
        const list = (headers.get(`access-control-allow-${name}`) ?? "")
          .toLowerCase().split(/\s*,\s*/);
        hold(list.includes(item), `allowed ${name} are ${list.join(", ")}`);
      };
      for (const action of ["xhr_streaming", "xhr", "xhr_send"]) {
        const response = await fetch(`${base}/${action}`, {
          method: "OPTIONS",
          headers: {
            origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
          },
        });
        await response.body?.cancel();
        hold(response.ok, `${action} answers ${response.status}`);
        allows(response);
        lists(response, "methods", "post");
        lists(response, "headers", "content-type");
      }
      const client = session(t);
      allows(await client.receive("xhr"));
      await client.line("o");
      allows(await client.post("[]"));
      return "3 routes";
    },
  },
]]];
