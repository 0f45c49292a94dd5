/**
 * The client over HTTP: against a fake server that each test scripts, and against our
 * own. Where time matters it is fake.
 */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Channel,
  PresenceChannel,
  type PusherOptions,
} from "@glitz/pusher/client";
import {
  Client,
  heard,
  joinReal,
  Listeners,
  RealServer,
  record,
  settled,
  Sockets,
  until,
} from "../support/client.ts";
import { REAL_CLOCK, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import {
  type Exchange,
  greeting,
  HttpServer,
  line,
  PRELUDE,
} from "../support/http_server.ts";
import { Queue } from "../support/queue.ts";
import { BROWSERS, browserTest, openPage } from "../support/browser.ts";
import manifest from "../../deno.json" with { type: "json" };
import { HttpSocket, type Switch } from "../../client/http.ts";

// ---- Fixtures ---------------------------------------------------------------

/** A connection, its messages and its end. */
class Connection implements Disposable {
  readonly socket: HttpSocket;
  readonly #messages = new Queue<string>();
  readonly #closes = new Queue<[code: number, reason: string]>();

  constructor(
    http: HttpServer,
    transport: "xhr_streaming" | "xhr_polling" = "xhr_streaming",
    onSwitch?: Switch,
  ) {
    const url = () => http.wsUrl;
    this.socket = new HttpSocket(transport, url, {}, onSwitch);
    this.socket.onmessage = ({ data }) => this.#messages.push(data);
    this.socket.onclose = ({ code, reason }) =>
      this.#closes.push([code, reason]);
  }

  message(): Promise<string> {
    return this.#messages.next("message");
  }

  async messages(count: number): Promise<string[]> {
    const messages = [];
    for (let i = 0; i < count; i++) messages.push(await this.message());
    return messages;
  }

  closed(): Promise<[code: number, reason: string]> {
    return this.#closes.next("close");
  }

  [Symbol.dispose](): void {
    this.socket.close();
  }
}

/** Resolves when the runtime has collected the garbage of this moment. */
async function garbageCollected(): Promise<void> {
  const registry = new FinalizationRegistry<() => void>((done) => done());
  let isCollected = false;
  registry.register({}, () => isCollected = true);
  while (!isCollected) {
    // Enough of it that the runtime wants the memory back.
    Array.from({ length: 100_000 }, () => ({}));
    await turn();
  }
}

// ---- Requests ---------------------------------------------------------------

Deno.test("HttpSocket posts to a session of its own, with the query of WebSocket", async () => {
  await using http = new HttpServer();
  const sessions = new Set<string>();
  for (const transport of ["xhr_streaming", "xhr_polling"] as const) {
    using connection = new Connection(http, transport);
    const first = await http.receive();
    assertEquals(first.request.method, "POST");
    assertEquals(first.body, "");
    assertEquals(first.query, "protocol=7&batch=1");
    const path =
      /^(\/x\/pusher\/app\/a%20b\/(?:0|[1-9]\d{0,2})\/[0-9a-v]{8})\/(\w+)$/;
    const [, session = "", action] = path.exec(first.url.pathname) ?? [];
    assertEquals(action, transport === "xhr_polling" ? "xhr" : transport);
    sessions.add(session);
    connection.socket.send("x");
    const sent = await http.sent();
    assertEquals(sent.request.method, "POST");
    assertEquals(sent.url.pathname, `${session}/xhr_send`);
    assertEquals(sent.query, "");
    assertMatch(first.number, /^\d+ 1$/);
    assertMatch(sent.number, /^\d+ 2$/);
    assertEquals(sent.body, '["x"]');
  }
  assertEquals(sessions.size, 2);
});

Deno.test("HttpSocket sends no header that pages of other origins may not send", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  connection.socket.send("x");
  for (const exchange of [await http.receive(), await http.sent()]) {
    const { headers } = exchange.request;
    assertEquals(headers.get("content-type"), "application/json");
    // The runtime adds the others.
    const names = [...headers.keys()].filter((name) =>
      !name.startsWith("accept") && name !== "content-length" &&
      name !== "host" && name !== "user-agent"
    );
    assertEquals(names, ["content-type"]);
  }
});

Deno.test("HttpSocket goes where the options say", async () => {
  await using http = new HttpServer();
  const { port } = http;
  const here = `ws://127.0.0.1:${port}`;
  const cases: [wsUrl: string, options: PusherOptions, path: string][] = [
    [`${here}/app/k?a=1`, {}, "/pusher/app/k"],
    [`${here}/x/app/app/k?a=1`, {}, "/x/app/pusher/app/k"],
    [`${here}/x/app/k?a=1`, { httpPath: "/y" }, "/y/app/k"],
    [`${here}/x/app/k?a=1`, { httpPath: "" }, "/app/k"],
    ["ws://127.0.0.1:1/app/k?a=1", { httpPort: port }, "/pusher/app/k"],
    [
      `ws://nowhere.invalid:${port}/app/k?a=1`,
      { httpHost: "127.0.0.1", httpsPort: 1 },
      "/pusher/app/k",
    ],
    [`${here}/app/k?a=1`, { httpHost: "" }, "/pusher/app/k"],
  ];
  for (const [wsUrl, options, path] of cases) {
    const socket = new HttpSocket("xhr_polling", () => wsUrl, options);
    const { url, query } = await http.receive();
    socket.close();
    assertMatch(url.pathname, new RegExp(`^${path}/\\d+/\\w+/xhr$`));
    assertEquals(query, "a=1");
  }
});

Deno.test("HttpSocket uses TLS where WebSocket does", async () => {
  using tls = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const url = () => "wss://127.0.0.1:1/app/k?a=1";
  const options = { httpPort: 1, httpsPort: tls.addr.port };
  const socket = new HttpSocket("xhr_streaming", url, options);
  using tcp = await within(DEADLINE_MS, "connection", tls.accept());
  const firstByte = new Uint8Array(1);
  await tcp.read(firstByte);
  socket.close();
  // The type of a TLS handshake record.
  assertEquals(firstByte[0], 0x16);
});

Deno.test("a hostname in the opening is the host of later requests", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http, "xhr_polling");
  const first = await http.receive();
  assertEquals(first.url.hostname, "127.0.0.1");
  first.answer('o{"hostname":"localhost"}\n');
  const next = await http.receive();
  connection.socket.send("x");
  for (const { url } of [next, await http.sent()]) {
    assertEquals([url.hostname, Number(url.port)], ["localhost", http.port]);
  }
});

// ---- Streaming --------------------------------------------------------------

Deno.test("xhr_streaming hears frames as they come, however they are cut", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const answer = await http.receive();
  answer.write(`${PRELUDE}o\n${line("1", "2")}`);
  assertEquals(await connection.messages(2), ["1", "2"]);
  answer.write(`m${JSON.stringify("3")}\na[]\nx\n\n${line("4")}a["`);
  assertEquals(await connection.messages(2), ["3", "4"]);
  const bytes = new TextEncoder().encode('é€😀"]\n');
  for (const byte of bytes) {
    answer.write(new Uint8Array([byte]));
    // Sends the bytes separately.
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assertEquals(await connection.message(), "é€😀");
});

Deno.test("xhr_streaming answers a heartbeat, and not the padding before the opening", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const answer = await http.receive();
  answer.write(`${PRELUDE}h\no\n${PRELUDE}${line("1")}`);
  await connection.message();
  answer.write("h\n");
  const beat = await http.sent();
  assertEquals(beat.body, "[]");
  // Frames answer the heartbeat, too.
  connection.socket.send("x");
  answer.write(`h\n${line("2")}`);
  await connection.message();
  beat.answer(null, 204);
  const sent = await http.sent();
  assertEquals(sent.body, '["x"]');
});

/** Ways in which a streaming connection ends. */
const ENDS: [title: string, text: string, code: number, reason: string][] = [
  ["c", 'o\nc[4001,"no such app"]\na["1"]\n', 4001, "no such app"],
  ["c without an opening", 'c[4100,"full"]\n', 4100, "full"],
  ["a second opening", "o\no\n", 1006, "Server lost session"],
  ["a line that cannot be read", "o\na[\n", 1006, "Cannot receive: "],
];

for (const [title, text, code, reason] of ENDS) {
  Deno.test(`xhr_streaming ends with ${title}`, async () => {
    await using http = new HttpServer();
    using connection = new Connection(http);
    const answer = await http.receive();
    answer.write(text);
    const [found, why] = await connection.closed();
    assertEquals(found, code);
    assert(why.startsWith(reason), why);
    await within(DEADLINE_MS, "end of the request", answer.givenUp);
  });
}

Deno.test("xhr_streaming ends with its response, and with a response that is refused", async () => {
  await using http = new HttpServer();
  for (const status of [200, 404, 500]) {
    using connection = new Connection(http);
    const answer = await http.receive();
    if (status === 200) {
      answer.write("o\n");
      answer.end();
    } else {
      answer.answer("o\n", status);
    }
    const [code, reason] = await connection.closed();
    assertEquals(code, 1006);
    assertStringIncludes(
      reason,
      status === 200 ? "the answer has ended" : `status is ${status}`,
    );
  }
});

Deno.test("xhr_streaming ends where nothing is streamed within 8 seconds", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using late = new Connection(http);
  const answer = await http.receive();
  answer.write(PRELUDE);
  time.tick(8_000);
  assertEquals(await late.closed(), [1006, "Nothing streamed in 8000 ms"]);

  using connection = new Connection(http);
  const { write } = await http.receive().then((next) => ({
    write: (text: string) => next.write(text),
  }));
  time.tick(7_999);
  write(`o\n${line("1")}`);
  await connection.message();
  time.tick(60_000);
  write(line("2"));
  assertEquals(await connection.message(), "2");
});

Deno.test("xhr_streaming asks again after 262,144 units, at the end of a line", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  let answer = await http.receive();
  const { pathname } = answer.url;
  const opening = `${PRELUDE}o\n`;
  // Exactly the limit of a response.
  const filler = "€".repeat(262_144 - opening.length - line("").length);
  answer.write(opening + line(filler));
  assertEquals((await connection.message()).length, filler.length);
  answer.write(line("1"));
  assertEquals(await connection.message(), "1");
  for (let i = 0; i < 2; i++) {
    const next = await http.receive();
    await within(DEADLINE_MS, "end of the answer", answer.givenUp);
    assertEquals(next.url.pathname, pathname);
    assertEquals(next.query, "protocol=7&batch=1");
    // Without a second opening; and the client reads up to the end of the line.
    const text = line("2", "x".repeat(300_000));
    next.write(PRELUDE + text.slice(0, 290_000));
    next.write(text.slice(290_000));
    assertEquals((await connection.messages(2))[0], "2");
    answer = next;
  }
});

// ---- Polling ----------------------------------------------------------------

Deno.test("xhr_polling asks again once it is answered", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http, "xhr_polling");
  const first = await http.receive();
  first.answer(`o\n${line("1")}`);
  const answers = [line("2", "3"), "h\n", "a[]\n", `${line("4")}${line("5")}`];
  const numbers = new Set([first.number]);
  for (const answer of answers) {
    const exchange = await http.receive();
    assertEquals(exchange.url.pathname, first.url.pathname);
    assertEquals(exchange.query, first.query);
    numbers.add(exchange.number);
    exchange.answer(answer);
  }
  const last = await http.receive();
  assertEquals(numbers.size, answers.length + 1);
  assertEquals(await connection.messages(5), ["1", "2", "3", "4", "5"]);
  last.answer('c[4200,"bye"]\n');
  assertEquals(await connection.closed(), [4200, "bye"]);
});

/** Responses that end polling. */
const POLLS: [title: string, answer: string | null, status: number][] = [
  ["a status of its own", "o\n", 404],
  ["nothing", "", 200],
  ["no content", null, 204],
  ["no line", "<html>", 200],
  ["lines that are none", "<html>\n</html>\n", 200],
];

for (const [title, answer, status] of POLLS) {
  Deno.test(`xhr_polling ends with ${title}, and asks for no more`, async () => {
    await using http = new HttpServer();
    using connection = new Connection(http, "xhr_polling");
    (await http.receive()).answer(answer, status);
    assertEquals((await connection.closed())[0], 1006);
  });
}

// ---- Sending ----------------------------------------------------------------

Deno.test("frames are sent in order, one request at a time", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const { socket } = connection;
  socket.send("1");
  socket.send("2");
  const first = await http.sent();
  assertEquals(first.body, '["1","2"]');
  for (const text of ["3", "4"]) {
    socket.send(text);
    await Promise.resolve();
  }
  first.answer(null, 204);
  const second = await http.sent();
  assertEquals(second.body, '["3","4"]');
  socket.send('"5"');
  second.answer("ok");
  const third = await http.sent();
  assertEquals(JSON.parse(third.body), ['"5"']);
});

Deno.test("a request carries no more than servers take", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const { socket } = connection;
  const lengths = [1, 70_000, 40_000, 20_000, 10_000];
  for (const length of lengths) socket.send("x".repeat(length));
  for (let i = 0; i < 501; i++) socket.send("");
  const sizes = [];
  for (let i = 0; i < 5; i++) {
    const exchange = await http.sent();
    const frames: string[] = JSON.parse(exchange.body);
    sizes.push(
      frames.length <= 2 ? frames.map(({ length }) => length) : frames.length,
    );
    exchange.answer(null, 204);
  }
  assertEquals(sizes, [[1], [70_000], [40_000, 20_000], 500, [0, 0]]);
});

Deno.test("frames that cannot be sent end the connection", async () => {
  await using http = new HttpServer();
  for (const status of [400, 404, 413, 500]) {
    using connection = new Connection(http);
    const answer = await http.receive();
    answer.write("o\n");
    connection.socket.send("1");
    const exchange = await http.sent();
    connection.socket.send("2");
    exchange.answer("no", status);
    assertEquals(await connection.closed(), [
      1006,
      `Cannot send: status is ${status}, and must be 200`,
    ]);
    await within(DEADLINE_MS, "end of the answer", answer.givenUp);
  }
});

Deno.test("close() ends everything, and calls no handler", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  for (const transport of ["xhr_streaming", "xhr_polling"] as const) {
    let calls = 0;
    using connection = new Connection(http, transport, () => calls++);
    const { socket } = connection;
    socket.onclose = () => calls++;
    const first = await http.receive();
    if (transport === "xhr_streaming") first.write(`o\n${line("1")}`);
    else first.answer(`o\n${line("1")}`);
    await connection.message();
    socket.onmessage = () => calls++;
    socket.send("1");
    await http.sent();
    socket.close();
    socket.close();
    // The connection is closed.
    socket.send("2");
    if (transport === "xhr_streaming") {
      await within(DEADLINE_MS, "end of the answer", first.givenUp);
    }
    assertEquals(time.next(), false);
    assertEquals(calls, 0);
  }
});

Deno.test("close() ends a stream whose response was collected as garbage", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const exchange = await http.receive();
  exchange.write(`o\n${line("1")}`);
  await connection.message();
  await garbageCollected();
  connection.socket.close();
  await within(DEADLINE_MS, "end of the answer", exchange.givenUp);
});

Deno.test("close() in a handler is the end of the line", async () => {
  await using http = new HttpServer();
  using connection = new Connection(http);
  const { socket } = connection;
  const messages: string[] = [];
  const done = Promise.withResolvers<void>();
  socket.onmessage = ({ data }) => {
    messages.push(data);
    socket.close();
    done.resolve();
  };
  const answer = await http.receive();
  answer.write(`o\n${line("1", "2")}${line("3")}`);
  await within(DEADLINE_MS, "message", done.promise);
  await within(DEADLINE_MS, "end of the answer", answer.givenUp);
  assertEquals(messages, ["1"]);
});

// ---- Probing ----------------------------------------------------------------

/** A connection that may switch to WebSocket. */
async function probing(http: HttpServer): Promise<
  {
    connection: Connection;
    answer: Exchange;
    switched: Queue<[WebSocket, string]>;
  } & Disposable
> {
  const switched = new Queue<[WebSocket, string]>();
  const connection = new Connection(
    http,
    "xhr_streaming",
    (socket, text) => switched.push([socket, text]),
  );
  const answer = await http.receive();
  answer.write(`o\n${line("1")}`);
  await connection.message();
  const dispose = () => connection[Symbol.dispose]();
  return { connection, answer, switched, [Symbol.dispose]: dispose };
}

Deno.test("WebSocket is tried at growing intervals while HTTP is in use", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using _probing = await probing(http);
  using sockets = new Sockets();
  http.server.isDown = true;
  for (const [i, seconds] of [5, 10, 20, 40, 80, 160, 200, 200].entries()) {
    time.tick(seconds * 1_000 - 1);
    assertEquals(sockets.urls.length, i, `less than ${seconds} s`);
    const before = time.now;
    time.next();
    assert(time.now - before <= seconds * 500 + 1, `more than ${seconds} s`);
    await sockets.close();
  }
  assertEquals(new Set(sockets.urls), new Set([http.wsUrl]));
});

Deno.test("WebSocket takes over once it is greeted, with its greeting", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using probe = await probing(http);
  time.tick(7_500);
  const peer = await http.server.accept();
  peer.sendText(greeting("2.2"));
  const [socket, text] = await probe.switched.next("switch");
  assertEquals(text, greeting("2.2"));
  // A socket that was handed over stays open.
  probe.connection.socket.close();
  socket.send('{"event":"pusher:pong"}');
  assertEquals(await peer.framesUntilPong(), []);
  socket.close();
  await within(DEADLINE_MS, "close", peer.closed);
});

Deno.test("WebSocket does not take over before frames are sent", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using probe = await probing(http);
  using sockets = new Sockets();
  const { connection, switched } = probe;
  connection.socket.send("1");
  const first = await http.sent();
  time.tick(7_500);
  const gone = await http.server.accept();
  gone.sendText(greeting("2.2"));
  await sockets.message();
  connection.socket.send("2");
  // A probe that closes meanwhile is not used.
  gone.close(4200);
  await sockets.close();
  first.answer(null, 204);
  const second = await http.sent();
  assertEquals(second.body, '["2"]');
  time.tick(15_000);
  const peer = await http.server.accept();
  peer.sendText(greeting("3.3"));
  await sockets.message();
  second.answer(null, 204);
  const [socket, text] = await switched.next("switch");
  assertEquals(text, greeting("3.3"));
  socket.close();
  await within(DEADLINE_MS, "close", peer.closed);
});

/** First messages that do not greet the client. */
const REFUSALS = [
  '{"event":"pusher:error","data":{"code":4100,"message":"full"}}',
  "not JSON",
  "null",
];

for (const text of REFUSALS) {
  Deno.test(`WebSocket that says ${text} does not take over, and is tried again`, async () => {
    using time = new FakeTime();
    await using http = new HttpServer();
    using probe = await probing(http);
    time.tick(7_500);
    const refusing = await http.server.accept();
    refusing.sendText(text);
    await within(DEADLINE_MS, "close", refusing.closed);
    time.tick(15_000);
    const peer = await http.server.accept();
    peer.sendText(greeting("2.2"));
    const [socket] = await probe.switched.next("switch");
    socket.close();
    await within(DEADLINE_MS, "close", peer.closed);
  });
}

Deno.test("WebSocket that says nothing for 15 seconds is given up", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using _probe = await probing(http);
  time.tick(7_500);
  const silent = await http.server.accept();
  time.tick(15_000);
  await within(DEADLINE_MS, "close", silent.closed);
  time.tick(15_000);
  const next = await http.server.accept();
  assertEquals(new URL(next.request.url).pathname, "/x/app/a%20b");
});

Deno.test("close() ends a probe, planned or under way", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using probe = await probing(http);
  time.tick(7_500);
  const peer = await http.server.accept();
  probe.connection.socket.close();
  await within(DEADLINE_MS, "close", peer.closed);
  assertEquals(time.next(), false);
});

Deno.test("nothing is probed without a function that takes over", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = new Connection(http);
  (await http.receive()).write(`o\n${line("1")}`);
  await connection.message();
  assertEquals(time.next(), false);
});

// ---- Choice of a transport --------------------------------------------------

/** Waits until a round has failed, and lets the next round begin. */
async function retry(client: Client, time: FakeTime): Promise<void> {
  const seconds = await client.heard("connecting_in") as number;
  // The event rounds the number of seconds.
  time.tick(seconds * 1_000 + 500);
}

/** Waits until a transport has failed, and lets the next transport begin. */
async function goOn(client: Client, time: FakeTime): Promise<void> {
  await client.heard("error");
  time.tick(0);
}

/** A client that could not open a WebSocket, and its first request over HTTP. */
async function fallBack(
  http: HttpServer,
  time: FakeTime,
  options: PusherOptions = {},
): Promise<{ client: Client; answer: Exchange } & Disposable> {
  http.server.isDown = true;
  const client = new Client(http, options);
  await goOn(client, time);
  const answer = await http.receive();
  const dispose = () => client[Symbol.dispose]();
  return { client, answer, [Symbol.dispose]: dispose };
}

/** The same client, connected. */
async function connectOver(
  http: HttpServer,
  time: FakeTime,
  extensions?: string[],
): Promise<{ client: Client; answer: Exchange } & Disposable> {
  const connection = await fallBack(http, time);
  const connected = connection.client.heard("connected");
  connection.answer.write(`${PRELUDE}o\n${line(greeting("1.1", extensions))}`);
  await connected;
  return connection;
}

Deno.test("HTTP is used at once where WebSocket fails", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await fallBack(http, time);
  const { client: { pusher }, client, answer } = connection;
  assertEquals(pusher.connection.transport.name, "xhr_streaming");
  assertEquals(pusher.connection.state, "connecting");
  assertEquals(client.dataOf("connecting_in"), []);
  assertMatch(answer.url.pathname, /^\/pusher\/app\/app-key\/.*streaming$/);
  assertEquals(
    answer.query,
    `protocol=7&client=js-glitz&version=${manifest.version}&batch=1&recover=1`,
  );
  const connected = client.heard("connected");
  answer.write(`${PRELUDE}o\n${line(greeting("1.1"))}`);
  assertEquals(await connected, { socket_id: "1.1" });
  assertEquals(pusher.connection.transport.name, "xhr_streaming");

  const channel = pusher.subscribe("a");
  const sent = await http.sent();
  const subscribe = {
    event: "pusher:subscribe",
    data: { auth: "", channel: "a" },
  };
  assertEquals(sent.frames, [subscribe]);
  const created = heard(channel, "create");
  answer.write(line(
    '{"event":"pusher_internal:subscription_succeeded","channel":"a"}',
    '{"event":"create","channel":"a","data":"{\\"text\\":\\"hello\\"}"}',
  ));
  assertEquals(await created, { text: "hello" });
});

Deno.test("streaming that fails is followed by polling at once, and after a delay by WebSocket", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await fallBack(http, time);
  const { client, answer } = connection;
  for (let round = 0; round < 2; round++) {
    const streaming = round === 0 ? answer : await http.receive();
    assertEquals(
      client.pusher.connection.transport.name,
      "xhr_streaming",
    );
    assertMatch(streaming.url.pathname, /xhr_streaming$/);
    streaming.answer("not found", 404);
    const polling = await http.receive();
    assertMatch(polling.url.pathname, /xhr$/);
    // Only then has the round failed.
    assertEquals(client.dataOf("connecting_in").length, round);
    const retried = retry(client, time);
    polling.answer("not found", 404);
    await retried;
    const errors = JSON.stringify(client.dataOf("error"));
    assertStringIncludes(errors, "status is 404");
    assertEquals(client.pusher.connection.transport.name, "ws");
    await goOn(client, time);
  }
  await http.receive();
});

Deno.test("polling that fails over a network that had passed it is followed by WebSocket", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await fallBack(http, time);
  const { client, answer } = connection;
  answer.answer("not found", 404);
  const connected = client.heard("connected");
  (await http.receive()).answer(`o\n${line(greeting("1.1"))}`);
  await connected;
  const lost = retry(client, time);
  (await http.receive()).answer("not found", 404);
  await lost;
  const again = await http.receive();
  assertMatch(again.url.pathname, /xhr$/);
  http.server.isDown = false;
  const failed = retry(client, time);
  again.answer("not found", 404);
  await failed;
  await http.server.establish("2.2");
  await client.heard("connected");
  assertEquals(client.pusher.connection.transport.name, "ws");
});

Deno.test("streaming that a proxy holds back is followed by polling, and given up", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await fallBack(http, time);
  const { client, answer } = connection;
  answer.write(PRELUDE);
  time.tick(4_000);
  const polling = await http.receive();
  const connected = client.heard("connected");
  polling.answer(`o\n${line(greeting("1.1"))}`);
  await connected;
  await within(DEADLINE_MS, "end of streaming", answer.givenUp);
  assertEquals(client.pusher.connection.transport.name, "xhr_polling");
  assertEquals(client.dataOf("connecting_in"), []);
  await http.receive();
});

Deno.test("WebSocket stays in use where it opens, or is refused", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  const { server } = http;
  using client = new Client(http);
  const fail = async (code: number, isGreeted: boolean) => {
    const retried = retry(client, time);
    const peer = await server.accept();
    if (isGreeted) peer.establish();
    peer.close(code);
    await retried;
  };
  // A server that refuses was reached.
  for (let i = 0; i < 3; i++) await fail(4100, false);
  for (let i = 0; i < 3; i++) await fail(1011, true);
  await server.accept();
  assertEquals(client.pusher.connection.transport.name, "ws");
});

Deno.test("a connection over HTTP that is lost is made again over HTTP", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await connectOver(http, time);
  const { client, answer } = connection;
  const retried = retry(client, time);
  answer.end();
  await retried;
  assertEquals(client.pusher.connection.state, "connecting");
  const next = await http.receive();
  assertEquals(next.url.searchParams.get("was"), "1.1");
  assertNotEquals(next.url.pathname, answer.url.pathname);
  const connected = client.heard("connected");
  next.write(`o\n${line(greeting("2.2"))}`);
  await connected;
  assertEquals(client.pusher.connection.transport.name, "xhr_streaming");
});

Deno.test("close codes mean over HTTP what they mean over WebSocket", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await fallBack(http, time);
  const { client, answer } = connection;
  const disconnected = client.heard("disconnected");
  const refusal = {
    event: "pusher:error",
    data: { code: 4001, message: "no" },
  };
  answer.write(`o\n${line(JSON.stringify(refusal))}c[4001,"no"]\n`);
  await disconnected;
  assertEquals(time.next(), false);

  using other = await connectOver(http, time);
  const lost = other.client.heard("connecting");
  other.answer.write('c[4200,"bye"]\n');
  await lost;
  time.tick(0);
  await http.receive();
  assertEquals(other.client.dataOf("connecting_in"), []);
});

/** Options, and the transport of the first attempt. */
const CHOICES: [options: PusherOptions, first: string | undefined][] = [
  [{}, "ws"],
  [{ forceTLS: true }, "wss"],
  [{ enabledTransports: ["ws"] }, "ws"],
  [{ enabledTransports: ["xhr_streaming"] }, "xhr_streaming"],
  [{ enabledTransports: ["xhr_polling"] }, "xhr_polling"],
  [{ enabledTransports: ["xhr_polling", "ws"] }, "ws"],
  [{ disabledTransports: ["ws"] }, "xhr_streaming"],
  [{ disabledTransports: ["ws", "xhr_streaming"] }, "xhr_polling"],
  [{ disabledTransports: ["wss"] }, "ws"],
  [{ disabledTransports: ["wss"], forceTLS: true }, "xhr_streaming"],
  [{ enabledTransports: ["wss"] }, undefined],
  [{ enabledTransports: ["sockjs"] }, undefined],
  [{ disabledTransports: ["ws", "xhr_streaming", "xhr_polling"] }, undefined],
];

Deno.test("enabledTransports and disabledTransports choose the transports", () => {
  for (const [options, first] of CHOICES) {
    using client = new Client({ port: 1 }, options);
    const { state, transport } = client.pusher.connection;
    assertEquals(transport.name, first);
    assertEquals(state, first === undefined ? "failed" : "connecting");
  }
});

Deno.test("WebSocket that is not enabled is not tried while HTTP is in use", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using client = new Client(http, { enabledTransports: ["xhr_polling"] });
  const connected = client.heard("connected");
  (await http.receive()).answer(`o\n${line(greeting("1.1"))}`);
  await connected;
  await http.receive();
  using sockets = new Sockets();
  // The next timer is that of the ping: nothing else is planned.
  time.tick(119_999);
  assertEquals(sockets.urls, []);
});

Deno.test("httpHost, httpPort and httpPath are where HTTP goes", async () => {
  await using http = new HttpServer();
  using _client = new Client({ port: 1 }, {
    wsHost: "nowhere.invalid",
    httpHost: "127.0.0.1",
    httpPort: http.port,
    httpPath: "/y",
    enabledTransports: ["xhr_polling"],
  });
  const { url } = await http.receive();
  assertMatch(url.pathname, /^\/y\/app\/app-key\/\d+\/\w+\/xhr$/);
});

// ---- Back to WebSocket ------------------------------------------------------

Deno.test("WebSocket takes over from HTTP, and nothing is lost", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  const { server } = http;
  const granted = ["batch", "recover"];
  using connection = await connectOver(http, time, granted);
  const { client, client: { pusher }, answer } = connection;
  const channel = pusher.subscribe("a");
  const sent = await http.sent();
  sent.answer(null, 204);
  const events = record(channel);
  const subscribed = heard(channel, "pusher:subscription_succeeded");
  const position = { epoch: "e", offset: 5 };
  const succeeded = { event: "pusher_internal:subscription_succeeded" };
  answer.write(line(
    JSON.stringify({ ...succeeded, channel: "a", position }),
    '{"event":"x","channel":"a","data":"1","offset":6}',
  ));
  await subscribed;

  server.isDown = false;
  client.events.length = 0;
  time.tick(7_500);
  const peer = await server.accept();
  const { searchParams } = new URL(peer.request.url);
  assertEquals(searchParams.get("was"), "1.1");
  assertEquals(pusher.connection.state, "connected");
  const connected = client.heard("connected");
  peer.establish("2.2", 120, granted);
  await connected;
  await within(DEADLINE_MS, "end of HTTP", answer.givenUp);
  assertEquals(pusher.connection.transport.name, "ws");
  assertEquals(client.events, [
    ["state_change", { previous: "connected", current: "connecting" }],
    ["connecting", undefined],
    ["state_change", { previous: "connecting", current: "connected" }],
    ["connected", { socket_id: "2.2" }],
  ]);
  assertEquals(await peer.next(), {
    event: "pusher:subscribe",
    data: { auth: "", channel: "a", recover: { epoch: "e", offset: 6 } },
  });
  peer.send("pusher_internal:subscription_succeeded", {}, {
    channel: "a",
    position: { epoch: "e", offset: 6 },
    recovered: true,
  });
  for (const offset of [6, 7]) peer.send("x", offset, { channel: "a", offset });
  await settled(peer);
  assertEquals(events, [
    ["pusher:subscription_succeeded", undefined],
    ["x", 1],
    ["pusher:subscription_succeeded", {}],
    ["x", 7],
  ]);
});

Deno.test("disconnect() while WebSocket takes over is the end of it", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using connection = await connectOver(http, time);
  const { client } = connection;
  client.pusher.connection.bind("connecting", () => client.pusher.disconnect());
  http.server.isDown = false;
  time.tick(7_500);
  const peer = await http.server.accept();
  peer.establish("2.2");
  await within(DEADLINE_MS, "close", peer.closed);
  assertEquals(client.pusher.connection.state, "disconnected");
  assertEquals(time.next(), false);
});

Deno.test("a failure after WebSocket took over leads to HTTP again", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  const { server } = http;
  using connection = await connectOver(http, time);
  const { client } = connection;
  server.isDown = false;
  time.tick(7_500);
  const peer = await server.accept();
  const connected = client.heard("connected");
  peer.establish("2.2");
  await connected;
  server.isDown = true;
  const retried = retry(client, time);
  peer.close(1011);
  await retried;
  await goOn(client, time);
  await http.receive();
  assertEquals(client.pusher.connection.transport.name, "xhr_streaming");
});

/** Stages of a connection at which a client may disconnect. */
const STAGES: Record<
  string,
  (http: HttpServer, time: FakeTime) => Promise<Client>
> = {
  "while HTTP is being loaded": async (http) => {
    const client = new Client(http, { enabledTransports: ["xhr_streaming"] });
    await Promise.resolve();
    return client;
  },
  "while HTTP connects": async (http, time) => {
    const { client, answer } = await fallBack(http, time);
    answer.write(PRELUDE);
    return client;
  },
  "while HTTP is waited for": async (http, time) => {
    const { client, answer } = await fallBack(http, time);
    const delayed = client.heard("connecting_in");
    answer.answer("not found", 404);
    (await http.receive()).answer("not found", 404);
    await delayed;
    return client;
  },
  "while frames are sent": async (http, time) => {
    const { client } = await connectOver(http, time);
    client.pusher.subscribe("a");
    await http.sent();
    client.pusher.subscribe("b");
    return client;
  },
  "while WebSocket is tried": async (http, time) => {
    const { client } = await connectOver(http, time);
    http.server.isDown = false;
    time.tick(7_500);
    await http.server.accept();
    return client;
  },
};

for (const [stage, reach] of Object.entries(STAGES)) {
  Deno.test(`disconnect() leaves nothing ${stage}`, async () => {
    using time = new FakeTime();
    using listeners = new Listeners();
    await using http = new HttpServer();
    const client = await reach(http, time);
    assertNotEquals(listeners.names.size, 0);
    client.pusher.disconnect();
    assertEquals([...listeners.names.values()], []);
    assertEquals(time.next(), false);
  });
}

// ---- Our own server ---------------------------------------------------------

/** Records the data of an event from now on. */
function recordData(channel: Channel, event: string): unknown[] {
  const data: unknown[] = [];
  channel.bind(event, (item) => data.push(item));
  return data;
}

for (const transport of ["xhr_streaming", "xhr_polling"]) {
  const over: PusherOptions = { enabledTransports: [transport] };

  Deno.test(`${transport} carries everything to and from our own server`, async () => {
    let ids = 0;
    await using server = new RealServer({
      clientEvents: true,
      authorize: () => ({ user_id: `user-${++ids}`, user_info: { ids } }),
      authenticate: () => ({ id: "ann" }),
    });
    using client = await server.connect(over);
    using other = await server.connect();
    const { pusher } = client;
    assertEquals(pusher.connection.transport.name, transport);
    const channel = await joinReal(client, "presence-a");
    assertInstanceOf(channel, PresenceChannel);
    const added = heard(channel, "pusher:member_added");
    const otherChannel = await joinReal(other, "presence-a");
    assertEquals(await added, { id: "user-2", info: { ids: 2 } });
    assertEquals(channel.members.me, { id: "user-1", info: { ids: 1 } });

    const [mine, theirs] = [channel, otherChannel].map((joined) =>
      recordData(joined, "client-x")
    );
    channel.trigger("client-x", { from: "client" });
    await until(() => theirs?.length === 1);
    otherChannel.trigger("client-x", { from: "other" });
    await until(() => mine?.length === 1);
    assertEquals([mine, theirs], [[{ from: "other" }], [{ from: "client" }]]);

    pusher.signin();
    await pusher.user.signinDonePromise;
    const hi = heard(pusher.user, "hi");
    await server.pusher.sendToUser("ann", "hi", { text: "hello" });
    assertEquals(await hi, { text: "hello" });
    // A burst that is larger than the limit of a response.
    const burst = recordData(channel, "x");
    const filler = "x".repeat(9_000);
    for (let i = 0; i < 200; i++) {
      server.pusher.trigger("presence-a", "x", { i, filler });
      if (i % 50 === 49) await until(() => burst.length > i - 20);
    }
    await until(() => burst.length === 200);
    assertEquals(
      burst.map((data) => (data as { i: number }).i),
      Array.from({ length: 200 }, (_, i) => i),
    );
    assertEquals(client.dataOf("error"), []);
  });

  Deno.test(`${transport} recovers missed events from our own server`, async () => {
    await using server = new RealServer();
    using client = await server.connect(over);
    const { pusher } = client;
    const heardAll = recordData(await joinReal(client, "a"), "x");
    for (let round = 0; round < 3; round++) {
      server.pusher.trigger("a", "x", round * 2);
      await until(() => heardAll.length === round * 2 + 1);
      pusher.disconnect();
      server.pusher.trigger("a", "x", round * 2 + 1);
      pusher.connect();
      await until(() => heardAll.length === round * 2 + 2);
    }
    assertEquals(heardAll, [0, 1, 2, 3, 4, 5]);
  });

  Deno.test(`${transport} reports that our own server has no such app`, async () => {
    await using server = new RealServer({ key: "another" });
    using client = new Client(server, over);
    await client.heard("disconnected");
    assertStringIncludes(JSON.stringify(client.dataOf("error")), '"code":4001');
  });
}

Deno.test("WebSocket takes over from HTTP in the middle of a stream of events", async () => {
  using time = new FakeTime();
  await using server = new RealServer({
    clientEvents: true,
    authorize: () => true,
    // What a client does not read at once is sent in a later turn.
    clock: REAL_CLOCK,
  });
  server.isBlocking = true;
  using client = new Client(server, {
    authEndpoint: `http://127.0.0.1:${server.port}/pusher/auth`,
  });
  const { pusher } = client;
  const channel = pusher.subscribe("private-a");
  await goOn(client, time);
  await heard(channel, "pusher:subscription_succeeded");
  assertEquals(pusher.connection.transport.name, "xhr_streaming");
  const received = recordData(channel, "x");
  server.isBlocking = false;
  using other = await server.connect();
  const sent = recordData(await joinReal(other, "private-a"), "client-x");
  let count = 0;
  const publish = () => server.pusher.trigger("private-a", "x", count++);
  for (let i = 0; i < 5; i++) publish();
  channel.trigger("client-x");
  const again = heard(channel, "pusher:subscription_succeeded");
  time.tick(7_500);
  // Publishes until the test stops it.
  await until(() => {
    publish();
    return pusher.connection.transport.name === "ws";
  });
  await again;
  publish();
  await until(() => received.length === count);
  assertEquals(received, Array.from({ length: count }, (_, i) => i));
  await until(() => sent.length === 1);
});

// ---- Served script ----------------------------------------------------------

/** The two origins that a browser sees in one server. */
const originsOf = ({ port }: { port: number }) =>
  ["127.0.0.1", "localhost"].map((host) => `http://${host}:${port}`);

browserTest(
  "pages load HTTP beside their script, and try that again",
  async (browser) => {
    await using server = new RealServer();
    server.isBlocking = true;
    const [own = "", other = ""] = originsOf(server);
    for (const origin of [own, other]) {
      // The first load of the module fails.
      server.failures.set("/pusher-fallback.mjs", 1);
      server.page = `<script src="${origin}/pusher.js"></script><script>
      const transports = ["xhr_streaming", "xhr_polling"];
      const mine = new Pusher("app-key", {
        ...pusher.config,
        forceTLS: false,
        enabledTransports: transports,
      });
      mine.subscribe("a")
        .bind("x", (data) => console.log("received", data))
        .bind("pusher:subscription_succeeded", () => {
          console.log("joined over", mine.connection.transport.name);
        });
    </script>`;
      const window = await openPage(browser, `${own}/`);
      await window.logs("joined over");
      server.pusher.trigger("a", "x", "hello");
      await window.logs("hello");
      await window.page.close();
      const loaded = server.asked.filter((path) => path.includes("fallback"));
      assertEquals(loaded.length, 2);
      server.asked.length = 0;
    }
  },
  BROWSERS,
);

browserTest(
  "a module loads HTTP beside it, where WebSocket fails",
  async (browser) => {
    await using server = new RealServer();
    server.isBlocking = true;
    server.page = `<script type="module">
    import { pusher } from "/pusher.mjs";
    pusher.subscribe("a")
      .bind("x", (data) => console.log("received", data))
      .bind("pusher:subscription_succeeded", () => {
        console.log("joined over", pusher.connection.transport.name);
      });
  </script>`;
    const [own = ""] = originsOf(server);
    const window = await openPage(browser, `${own}/`);
    await window.logs("xhr_streaming");
    server.pusher.trigger("a", "x", "hello");
    await window.logs("hello");
    server.isBlocking = false;
    await window.logs('"ws"');
    server.pusher.trigger("a", "x", "again");
    await window.logs("again");
  },
  BROWSERS,
);
