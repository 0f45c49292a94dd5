/**
 * The metrics as Prometheus gets them, who gets them, and health checks.
 */
import {
  type BackplaneNode,
  MemoryBackplane,
  type Peer,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import { debugConsole } from "@glitz/pusher/console";
import {
  health,
  type Metrics,
  metrics,
  type MetricsOptions,
} from "@glitz/pusher/metrics";
import { testPusher } from "@glitz/pusher/testing";
import { webhooks } from "@glitz/pusher/webhooks";
import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Counter, Registry } from "npm:prom-client@15.1.3";
import { readFigures } from "./console/figures.ts";
import { DEADLINE_MS, within } from "../tests/support/deadline.ts";
import { parseMetrics, valuesOf } from "../tests/support/prometheus.ts";
import {
  APP,
  leave,
  MemoryTransport,
  serve,
  TWO_APPS,
} from "../tests/support/server.ts";
import { DEFINITIONS } from "./metrics/definitions.ts";

const OPTIONS = { appId: APP.id, key: APP.key, secret: APP.secret };

/** A server, its clients in memory and its metrics, which disposal ends. */
class Bench implements Disposable {
  readonly pusher: Pusher;
  readonly exported: Metrics;
  readonly #peers: Peer[] = [];

  constructor(options: PusherOptions = {}, own: MetricsOptions = {}) {
    const app = options.apps === undefined ? OPTIONS : {};
    this.pusher = new Pusher({ ...app, ...options });
    this.exported = metrics(this.pusher, own);
  }

  /** Connects a client. */
  open({ query = "", key = APP.key } = {}): Peer {
    const url = `http://localhost/app/${key}?protocol=7${query}`;
    const transport = new MemoryTransport();
    const peer = this.pusher.open(transport, key, new Request(url));
    this.#peers.push(peer);
    return peer;
  }

  text(): Promise<string> {
    return this.exported.text();
  }

  [Symbol.dispose](): void {
    for (const peer of this.#peers) peer.closed(1000);
    this.exported.close();
  }
}

function subscribe(peer: Peer, channel: string): void {
  peer.receive(
    JSON.stringify({ event: "pusher:subscribe", data: { channel } }),
  );
}

/** Lets hooks run. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

// ---- What is exported ---------------------------------------------------------

Deno.test("metrics exports each metric with its type, its help and no other labels than it declares", async () => {
  using bench = new Bench({ clientEvents: true });
  const { pusher, exported } = bench;
  const peer = bench.open();
  subscribe(peer, "news");
  await pusher.trigger("news", "goal", 1);
  peer.closed(1000);
  await settle();
  const families = parseMetrics(await exported.text());
  assertEquals([...families.keys()], Object.keys(DEFINITIONS));
  for (const [name, { type, help, labels = [] }] of DEFINITION_LIST) {
    const family = families.get(name);
    assert(family !== undefined);
    assertEquals([family.type, family.help], [type, help], name);
    for (const label of family.labels) {
      assert(label === "le" || labels.includes(label), `${name}: ${label}`);
    }
    const suffix = type === "counter" ? /_total$/ : /(?<!_total)$/;
    assert(suffix.test(name), `${name} is no name for a ${type}`);
    if (type === "histogram") assert(name.endsWith("_seconds"), name);
  }
});

const DEFINITION_LIST = Object.entries<
  { type: string; help: string; labels?: readonly string[] }
>(DEFINITIONS);

const GAUGES = DEFINITION_LIST
  .filter(([name, { type }]) =>
    type === "gauge" && name.startsWith("pusher_") &&
    !["pusher_ready", "pusher_backplane_up"].includes(name) &&
    !name.startsWith("pusher_history_")
  ).map(([name]) => name);

Deno.test("every gauge of metrics has what is there, and is back at 0 when the clients have gone", async () => {
  await using server = serve({
    apps: TWO_APPS,
    authorizationTimeoutMs: 60_000,
    history: { ageMs: 60_000 },
  });
  using exported = metrics(server.pusher);
  const values = async () => valuesOf(await exported.text(), GAUGES);
  const [one, two] = TWO_APPS;
  assertEquals(await values(), {});
  await using ann = await server.connect({ app: one });
  await using bob = await server.connect({ app: one });
  await using eve = await server.connect({ app: two });
  await ann.subscribe("presence-a", { member: { user_id: "ann" } });
  await bob.subscribe("presence-a", { member: { user_id: "ann" } });
  await bob.subscribe("private-encrypted-cache-x");
  await bob.next("pusher:cache_miss");
  await eve.subscribe("news");
  assertEquals(await values(), {
    [`pusher_connections{app="${one.id}",transport="ws"}`]: 2,
    [`pusher_connections{app="${two.id}",transport="ws"}`]: 1,
    [`pusher_unauthorized_connections{app="${two.id}"}`]: 1,
    [`pusher_channels{app="${one.id}",kind="presence"}`]: 1,
    [`pusher_channels{app="${one.id}",kind="private-encrypted-cache"}`]: 1,
    [`pusher_channels{app="${two.id}",kind="public"}`]: 1,
    [`pusher_subscriptions{app="${one.id}",kind="presence"}`]: 2,
    [`pusher_subscriptions{app="${one.id}",kind="private-encrypted-cache"}`]: 1,
    [`pusher_subscriptions{app="${two.id}",kind="public"}`]: 1,
    [`pusher_presence_members{app="${one.id}"}`]: 1,
  });
  for (const client of [ann, bob, eve]) await leave(server, client);
  assertEquals(await values(), {});
  // A series that is there once stays, so that a dashboard shows the 0.
  const gone = `pusher_channels{app="${one.id}",kind="presence"} 0\n`;
  assertStringIncludes(await exported.text(), gone);
});

Deno.test("metrics counts connections by how they ended, and by why they were refused", async () => {
  const limits = { connections: 2 };
  using bench = new Bench({ limits, origins: "https://a.example" });
  const { pusher, exported } = bench;
  const names = [
    "pusher_connections_opened_total",
    "pusher_connections_closed_total",
    "pusher_connections_refused_total",
  ];
  const peers = [bench.open(), bench.open()];
  bench.open();
  bench.open({ query: "&protocol=3" });
  bench.open({ key: "unknown" });
  peers[0]?.closed(1006);
  // A client may close with a code of its own.
  peers[1]?.closed(4999);
  await settle();
  assertEquals(valuesOf(await exported.text(), names), {
    'pusher_connections_opened_total{app="app-id"}': 2,
    'pusher_connections_closed_total{app="app-id",code="1006"}': 1,
    'pusher_connections_closed_total{app="app-id",code="other"}': 1,
    'pusher_connections_refused_total{app="app-id",reason="app_full"}': 2,
    'pusher_connections_refused_total{app="",reason="unknown_app"}': 1,
  });
  await pusher.close();
  bench.open();
  await settle();
  const late = 'reason="shutting_down"} 1\n';
  assertStringIncludes(await exported.text(), late);
});

Deno.test("metrics counts messages, publishes, requests, refusals and auth by what came of them", async () => {
  await using server = serve({
    clientEvents: true,
    authorize: (_request, { channel }) => channel === "private-a",
  });
  const { pusher } = server;
  using exported = metrics(pusher);
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) await client.subscribe("private-a");
  ann.send({ event: "client-typing", channel: "private-a", data: {} });
  await bob.next("client-typing");
  await ann.refused("private-b", { auth: "wrong" });
  await pusher.trigger(["private-a", "b"], "goal", 1);
  const event = { name: "goal", channel: "news", data: "1" };
  await server.api("POST", "/events", { body: event });
  await server.api("POST", "/events", { body: { ...event, name: "" } });
  await server.api("GET", "/channels/private-a");
  for (const channel_name of ["private-a", "private-b"]) {
    const body = new URLSearchParams({ socket_id: ann.socketId, channel_name });
    const url = `${server.url}/pusher/auth`;
    await (await fetch(url, { method: "POST", body })).body?.cancel();
  }
  const text = await exported.text();
  const names = [
    "pusher_publishes_total",
    "pusher_http_requests_total",
    "pusher_auth_requests_total",
    "pusher_refusals_total",
  ];
  assertEquals(valuesOf(text, names), {
    'pusher_publishes_total{app="app-id",source="program",outcome="accepted"}':
      1,
    'pusher_publishes_total{app="app-id",source="http_api",outcome="accepted"}':
      1,
    'pusher_publishes_total{app="app-id",source="client",outcome="accepted"}':
      1,
    'pusher_http_requests_total{route="events",status="200"}': 1,
    'pusher_http_requests_total{route="events",status="400"}': 1,
    'pusher_http_requests_total{route="channels/*",status="200"}': 1,
    'pusher_http_requests_total{route="pusher/auth",status="200"}': 1,
    'pusher_http_requests_total{route="pusher/auth",status="403"}': 1,
    'pusher_auth_requests_total{endpoint="channel",outcome="allowed"}': 1,
    'pusher_auth_requests_total{endpoint="channel",outcome="denied"}': 1,
    'pusher_refusals_total{app="app-id",what="request",code="400"}': 1,
    'pusher_refusals_total{app="app-id",what="subscription",code="401"}': 1,
    'pusher_refusals_total{app="app-id",what="request",code="403"}': 1,
  });
  const families = parseMetrics(text);
  const count = (name: string) =>
    families.get(name)?.samples.get(`${name}{app="app-id"}`) ?? 0;
  assertEquals(count("pusher_messages_received_total"), 4);
  assert(count("pusher_messages_sent_total") >= 8);
  assert(count("pusher_sent_bytes_total") > 100);
  const timed = families.get("pusher_publish_duration_seconds");
  const id = 'pusher_publish_duration_seconds_count{source="http_api"}';
  assertEquals(timed?.samples.get(id), 1);
});

Deno.test("metrics says that the backplane is away, and counts its returns", async () => {
  let node: BackplaneNode | undefined;
  const backplane = new MemoryBackplane();
  const start = backplane.start.bind(backplane);
  backplane.start = (own) => start(node = own);
  using bench = new Bench({ backplane });
  const { pusher, exported } = bench;
  pusher.on("error", () => {});
  const names = [
    "pusher_backplane_up",
    "pusher_ready",
    "pusher_closing",
    "pusher_backplane_reconnects_total",
    "pusher_errors_total",
  ];
  const up = { pusher_backplane_up: 1, pusher_ready: 1 };
  assertEquals(valuesOf(await exported.text(), names), up);
  node?.health(false, new Error("away"));
  assertEquals(valuesOf(await exported.text(), names), {
    pusher_errors_total: 1,
  });
  await settle();
  node?.health(true);
  await settle();
  const back = { ...up, pusher_backplane_reconnects_total: 1 };
  assertEquals(valuesOf(await exported.text(), names), {
    ...back,
    pusher_errors_total: 1,
  });
  await pusher.close();
  assertEquals(valuesOf(await exported.text(), names.slice(1, 3)), {
    pusher_closing: 1,
  });
});

Deno.test("metrics has no name that a client or a backend can make up, and the same series for any number of them", async () => {
  using bench = new Bench({ clientEvents: true });
  const { pusher, exported } = bench;
  const peers = Array.from({ length: 20 }, (_, n) => {
    const query = `&client=evil${n}&version=evil${n}`;
    const peer = bench.open({ query });
    subscribe(peer, `evil-${n}`);
    subscribe(peer, `private-evil-${n}`);
    peer.receive(`{"event":"client-evil${n}","channel":"evil-${n}"}`);
    return peer;
  });
  for (const [n, peer] of peers.entries()) peer.closed(4200 + n);
  for (let n = 0; n < 20; n++) {
    bench.open({ key: `evil${n}` });
    bench.open({ query: `&protocol=${n + 8}` });
    const url = `http://localhost/apps/${APP.id}/evil${n}`;
    await (await pusher.handler(new Request(url))).body?.cancel();
    await pusher.trigger(`evil-${n}`, `evil-${n}`, n);
  }
  await settle();
  const text = await exported.text();
  assert(!text.includes("evil"), text);
  const codes = text.match(/_closed_total\{.*code="\d+"/g);
  assert((codes?.length ?? 0) <= 3, text);
  const unknown = text.match(/route="unknown",status/g);
  assertEquals(unknown?.length, 1);
});

Deno.test("metrics puts more than 100 apps together", async () => {
  const apps = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
      ...{ id: `${i}`, key: `key-${i}`, secret: "secret" },
    }));
  for (const [count, expected] of [[100, { 7: 2, 8: 1 }], [101, { "": 3 }]]) {
    using bench = new Bench({ apps: apps(Number(count)) });
    for (const key of ["key-7", "key-7", "key-8"]) bench.open({ key });
    const values = valuesOf(await bench.text(), ["pusher_connections"]);
    const byApp = Object.entries(values).map(([series, value]) =>
      [/app="(.*?)"/.exec(series)?.[1], value] as const
    );
    assertEquals(Object.fromEntries(byApp), expected);
  }
});

Deno.test("metrics reports the queues of webhooks by host, the labels of the program, and its own metrics", async () => {
  const registry = new Registry();
  const orders = {
    name: "orders_total",
    help: "Orders.",
    registers: [registry],
  };
  new Counter(orders).inc(7);
  using bench = new Bench();
  const { pusher } = bench;
  const hooks = webhooks(pusher, {
    ...{ key: APP.key, secret: APP.secret },
    endpoints: [{ url: "http://127.0.0.1:9/secret-path?token=tofu" }],
    ...{ retryDelaysMs: [], onError() {} },
  });
  const labels = { region: "eu" };
  using exported = metrics(pusher, { webhooks: [hooks], labels, registry });
  const peer = bench.open();
  subscribe(peer, "news");
  await settle();
  const queued =
    'pusher_webhook_queued_events{endpoint="127.0.0.1:9",region="eu"} 1\n';
  const text = await exported.text();
  assertStringIncludes(text, queued);
  assert(!text.includes("tofu") && !text.includes("secret"), text);
  assertStringIncludes(text, 'pusher_ready{region="eu"} 1\n');
  assertStringIncludes(text, "\norders_total 7\n");
  parseMetrics(text);
  peer.closed(1000);
  await hooks.close();
  const after = await exported.text();
  assertStringIncludes(after, queued.replace("} 1", "} 0"));
  assertStringIncludes(after, 'outcome="lost",region="eu"} ');
});

Deno.test("metrics shows that the event loop was blocked", async () => {
  using bench = new Bench();
  const { exported } = bench;
  const lag = async () => {
    const name = "pusher_event_loop_lag_seconds";
    const { samples } = parseMetrics(await exported.text()).get(name)!;
    return {
      count: samples.get(`${name}_count`)!,
      sum: samples.get(`${name}_sum`)!,
    };
  };
  const until = async (count: number) => {
    for (;;) {
      const seen = await lag();
      if (seen.count >= count) return seen;
      await settle();
    }
  };
  const { count, sum } = await within(DEADLINE_MS, "first tick", until(1));
  // The next tick is due in half a second at the latest.
  const end = performance.now() + 800;
  while (performance.now() < end);
  const after = await within(DEADLINE_MS, "next tick", until(count + 1));
  assert(after.sum - sum > 0.1, `${sum} and then ${after.sum}`);
});

Deno.test("metrics that are closed listen no longer, and have no timer", async () => {
  using bench = new Bench();
  const { exported } = bench;
  await exported.text();
  exported.close();
  exported.close();
  bench.open();
  await settle();
  const text = await exported.text();
  assertStringIncludes(
    text,
    'pusher_connections_opened_total{app="app-id"} 0\n',
  );
  assertStringIncludes(text, 'transport="ws"} 1\n');
});

Deno.test("metrics does not keep errors from being printed", async () => {
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (...args) => printed.push(args);
  try {
    using bench = new Bench();
    const { pusher, exported } = bench;
    pusher.on("connected", () => {
      throw new Error("broken");
    });
    bench.open();
    await settle();
    assertEquals(printed.length, 1);
    assertStringIncludes(await exported.text(), "\npusher_errors_total 1\n");
  } finally {
    console.error = error;
  }
});

// ---- Who gets them ----------------------------------------------------------

const LOCAL = "http://localhost:9292/metrics";

/** Where a request comes from. */
function from(hostname: string): Deno.ServeHandlerInfo {
  const remoteAddr = { transport: "tcp", hostname, port: 4242 } as const;
  return { remoteAddr, completed: Promise.resolve() };
}

/** Asks for the metrics; returns the status and the text. */
async function scrape(
  options: MetricsOptions,
  { url = LOCAL, headers = {}, peer = "127.0.0.1" as string | null } = {},
): Promise<[status: number, text: string]> {
  using bench = new Bench({}, options);
  const { pusher, exported } = bench;
  const handler = pusher.cascade(pusher.handler, exported);
  const request = new Request(url, { headers });
  const answer = await handler(request, peer === null ? undefined : from(peer));
  return [answer.status, await answer.text()];
}

const TOKEN = "a-token-of-some-length";

for (
  const [what, options, request, status] of [
    ["this machine", {}, {}, 200],
    ["this machine over IPv6", {}, {
      peer: "::1",
      url: "http://[::1]:9292/metrics",
    }, 200],
    ["this machine in an IPv6 address", {}, { peer: "::ffff:127.0.0.1" }, 200],
    ["another machine", {}, { peer: "192.0.2.1" }, 403],
    ["a machine of the private network", {}, { peer: "10.1.2.3" }, 403],
    ["nobody knows where", {}, { peer: null }, 403],
    ["a proxy on this machine", {}, {
      headers: { "x-forwarded-for": "192.0.2.1" },
    }, 403],
    ["a proxy that passes the host on", {}, {
      url: "http://example.com/metrics",
    }, 403],
    ["a page whose name leads here", {}, {
      url: "http://127.0.0.1.evil.example/metrics",
    }, 403],
    ["the private network, if it may", { from: "private" }, {
      peer: "10.1.2.3",
      url: "http://10.0.0.9/metrics",
    }, 200],
    ["a unique local address, if it may", { from: "private" }, {
      peer: "fd00::17",
    }, 200],
    ["another machine, if the private network may", { from: "private" }, {
      peer: "192.0.2.1",
    }, 403],
    ["172.32.0.1, which is public", { from: "private" }, {
      peer: "172.32.0.1",
    }, 403],
    ["a proxy of the private network", { from: "private" }, {
      peer: "10.1.2.3",
      headers: { forwarded: "for=192.0.2.1" },
    }, 403],
    ["anywhere, with the token", { token: TOKEN }, {
      peer: "192.0.2.1",
      headers: { authorization: `Bearer ${TOKEN}` },
    }, 200],
    ["this machine, without the token", { token: TOKEN }, {}, 401],
    ["anywhere, with another token", { token: TOKEN }, {
      headers: { authorization: `Bearer ${TOKEN}x` },
    }, 401],
    ["anywhere, if the program permits it", { authorize: () => true }, {
      peer: null,
    }, 200],
    [
      "this machine, if the program refuses it",
      {
        authorize: () => Promise.resolve(false),
      },
      {},
      403,
    ],
  ] as const
) {
  Deno.test(`metrics answers ${status} to ${what}`, async () => {
    const [found, text] = await scrape(options, request);
    assertEquals(found, status, text);
    assertEquals(text.includes("pusher_ready"), status === 200);
    // What to do about it.
    if (status !== 200) assert(/token|program/.test(text), text);
    assert(!text.includes(TOKEN), text);
  });
}

Deno.test("metrics takes nothing but true for a permission", async () => {
  for (const answer of [1, "yes", {}, new Response(null, { status: 403 })]) {
    const authorize = () => answer as unknown as boolean;
    assertEquals((await scrape({ authorize }))[0], 403);
  }
});

Deno.test("metrics answers at its path, to GET and HEAD, and leaves everything else alone", async () => {
  using bench = new Bench({}, { path: "/internal/metrics" });
  const { pusher, exported } = bench;
  const app = () => new Response("app");
  const handler = pusher.cascade(pusher.handler, exported, app);
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    handler,
  );
  const ask = async (path: string, method = "GET") => {
    const url = `http://127.0.0.1:${server.addr.port}${path}`;
    const answer = await fetch(url, { method });
    return { answer, text: await answer.text() };
  };
  assertEquals((await ask("/metrics")).text, "app");
  assertEquals((await ask("/internal/metrics/")).text, "app");
  const { answer, text } = await ask("/internal/metrics?x=1");
  const type = answer.headers.get("content-type");
  assertEquals(type, "text/plain; version=0.0.4; charset=utf-8");
  assertEquals(answer.headers.get("cache-control"), "no-store");
  parseMetrics(text);
  const head = await ask("/internal/metrics", "HEAD");
  assertEquals([head.answer.status, head.text], [200, ""]);
  const posted = await ask("/internal/metrics", "POST");
  assertEquals(posted.answer.status, 405);
  assertEquals(posted.answer.headers.get("allow"), "GET, HEAD");
});

Deno.test("metrics of several who ask at once are collected once", async () => {
  using bench = new Bench();
  const { pusher, exported } = bench;
  let looks = 0;
  const { figures } = pusher.meter;
  pusher.meter.figures = () => {
    looks++;
    return figures.call(pusher.meter);
  };
  const texts = await Promise.all([exported.text(), exported.text()]);
  assertEquals([looks, texts[0] === texts[1]], [1, true]);
  await exported.text();
  assertEquals(looks, 2);
});

Deno.test("metrics refuses what it does not know, and never shows a token", () => {
  const pusher = new Pusher(OPTIONS);
  for (
    const [options, said] of [
      [{ pth: "/x" }, 'unknown option "pth"'],
      [{ path: "metrics" }, 'path is "metrics"'],
      [{ from: "anywhere" }, 'from is "anywhere"'],
      [{ token: "short" }, "token is a string of 5 characters"],
      [{ token: "a secret with spaces in it" }, "a string of 26 characters"],
      [{ authorize: true }, "authorize is true"],
      [{ webhooks: {} }, "webhooks is an object"],
      [{ registry: "r" }, "be a Registry of prom-client"],
      [{ labels: { app: "x" } }, 'labels.app is "x"'],
      [{ labels: { "a-b": "x" } }, 'labels.a-b is "x"'],
      [{ labels: { a: 1 } }, "labels.a is 1"],
    ] as const
  ) {
    const error = assertThrows(
      () => metrics(pusher, options as MetricsOptions),
      TypeError,
    );
    assertStringIncludes(error.message, "Cannot serve metrics: ");
    assertStringIncludes(error.message, said);
    assert(!error.message.includes("secret"), error.message);
  }
  // deno-lint-ignore no-explicit-any -- what a caller in JavaScript may pass
  assertThrows(() => metrics(pusher.handler as any), TypeError, "be a Pusher");
});

// ---- Health -----------------------------------------------------------------

Deno.test("health says that the server is alive and ready, at paths of one's own, until it closes", async () => {
  const pusher = new Pusher(OPTIONS);
  const check = health(pusher, { live: "/live", ready: "/up" });
  const ask = async (path: string, method = "GET") => {
    const request = new Request(`http://localhost${path}`, { method });
    const answer = check(request);
    return answer && [answer.status, await answer.text()];
  };
  assertEquals(await ask("/live"), [200, "ok\n"]);
  assertEquals(await ask("/up"), [200, "ready\n"]);
  assertEquals(await ask("/healthz"), null);
  assertEquals(await ask("/up", "POST"), null);
  const closed = pusher.close();
  assertEquals(await ask("/up", "HEAD"), [503, "closing\n"]);
  assertEquals(await ask("/live"), [200, "ok\n"]);
  await closed;
  assertThrows(() => health(pusher, { live: "x" }), TypeError, 'live is "x"');
});

Deno.test("metrics, health and the console take the class Pusher for its default instance", async () => {
  using page = debugConsole(Pusher);
  using own = metrics(Pusher, { token: "a-long-random-token" });
  const handler = Pusher.cascade(Pusher.handler, own, health(Pusher), page);
  await using test = testPusher(Pusher, { handler });
  const client = await test.connect();
  await client.subscribe("news");

  assertEquals((await test.fetch("/readyz")).status, 200);
  const headers = { authorization: "Bearer a-long-random-token" };
  const text = await (await test.fetch("/metrics", { headers })).text();
  const connections = valuesOf(text, ["pusher_connections"]);
  assertEquals(Object.values(connections), [1]);
  // Greeting and confirmation; the subscription.
  const { received, sent } = readFigures(Pusher);
  assertEquals([received, sent], [1, 2]);
  await test.close();
  await Pusher.close();
});

Deno.test("health says that the server is not ready while the backplane starts", async () => {
  const started = Promise.withResolvers<void>();
  const backplane = new MemoryBackplane();
  const start = backplane.start.bind(backplane);
  backplane.start = async (node) => {
    await started.promise;
    start(node);
  };
  const pusher = new Pusher({ ...OPTIONS, backplane });
  const check = health(pusher);
  const ready = () => check(new Request("http://localhost/readyz"))?.status;
  assertEquals(ready(), 503);
  const up = new Promise((resolve) => pusher.on("backplane", resolve));
  started.resolve();
  await up;
  assertEquals(ready(), 200);
  await pusher.close();
});
