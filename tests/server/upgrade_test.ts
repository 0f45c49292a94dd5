/**
 * The upgrade from HTTP to a WebSocket: the subprotocols that clients offer.
 */
import { assertEquals } from "@std/assert";
import { browserTest, openPage } from "../support/browser.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { serve } from "../support/server.ts";

const PREFIX = "pusher-channels-protocol-";

// ---- Subprotocols -----------------------------------------------------------

/** The subprotocol of an answer's head; null if it names none. */
function subprotocolOf(head: string): string | null {
  const names = head.matchAll(/^sec-websocket-protocol: *(.*)\r$/gim);
  const [first, ...more] = Array.from(names, ([, name = ""]) => name);
  assertEquals(more, [], "The answer names one subprotocol at most");
  return first ?? null;
}

Deno.test("the answer to an upgrade names the first offered subprotocol that the server speaks", async () => {
  await using server = serve();
  const table: [offers: string, answer: string | null][] = [
    [`${PREFIX}7`, `${PREFIX}7`],
    [`${PREFIX}6`, `${PREFIX}6`],
    [`${PREFIX}5`, `${PREFIX}5`],
    [`chat, ${PREFIX}6, ${PREFIX}7`, `${PREFIX}6`],
    [`chat,${PREFIX}7,other`, `${PREFIX}7`],
    [` \t${PREFIX}7 \t ,chat`, `${PREFIX}7`],
    [`${PREFIX}7, ${PREFIX}7`, `${PREFIX}7`],
    [`chat\r\nSec-WebSocket-Protocol: ${PREFIX}7`, `${PREFIX}7`],
    // Names that the server does not speak are ignored.
    ["chat", null],
    [`${PREFIX}4`, null],
    [`${PREFIX}8`, null],
    [`${PREFIX}70`, null],
    [`${PREFIX}7x`, null],
    [`X-${PREFIX}7`, null],
    [`${PREFIX.toUpperCase()}7`, null],
    [`${PREFIX}7 ${PREFIX}6`, null],
    // Malformed headers.
    [",", null],
    [", ,,\t,", null],
    [`,,${PREFIX}7`, `${PREFIX}7`],
    [`"${PREFIX}7"`, null],
    [`${PREFIX}7;q=1`, null],
    ["(){}[]<>@:/=?", null],
    ["\xff\xfe\x80", null],
    ["__proto__, constructor", null],
    [`chat,${" ".repeat(20_000)}x`, null],
    [`${",".repeat(20_000)}${PREFIX}7`, `${PREFIX}7`],
  ];
  for (const [offers, answer] of table) {
    const what = JSON.stringify(offers.slice(0, 100));
    using raw = await server.raw();
    // As bytes, so that a name may be no text.
    const request = [
      "GET /app/app-key?protocol=7 HTTP/1.1",
      "Host: a",
      "Upgrade: websocket",
      "Connection: Upgrade",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      `Sec-WebSocket-Protocol: ${offers}`,
    ].join("\r\n") + "\r\n\r\n";
    await raw.write(Uint8Array.from(request, (char) => char.charCodeAt(0)));
    const head = await raw.readHead();
    assertEquals(head.split(" ")[1], "101", what);
    assertEquals(subprotocolOf(head), answer, what);
    const { event } = await raw.readText();
    assertEquals(event, "pusher:connection_established", what);
  }
});

/** Connects with subprotocols; resolves with the chosen one and the first event. */
function open(url: string, offers: string | string[]): Promise<unknown[]> {
  const socket = new WebSocket(url, offers);
  const opened = new Promise<unknown[]>((resolve) => {
    socket.onmessage = ({ data }) => {
      const seen = [socket.protocol, JSON.parse(data).event];
      socket.onclose = () => resolve(seen);
      socket.close();
    };
    socket.onclose = ({ code }) => resolve([code]);
  });
  return within(DEADLINE_MS, "first frame", opened);
}

Deno.test("a client of Deno connects with a subprotocol, alone or in a list", async () => {
  await using server = serve();
  const url = `${server.wsUrl}/app/app-key?protocol=7`;
  const established = "pusher:connection_established";
  assertEquals(await open(url, `${PREFIX}7`), [`${PREFIX}7`, established]);
  assertEquals(
    await open(url, ["chat", `${PREFIX}5`, `${PREFIX}7`]),
    [`${PREFIX}5`, established],
  );
});

browserTest(
  "a page connects with a subprotocol, and reads why it is refused",
  async (browser) => {
    const page = () =>
      new Response("<!doctype html>", {
        headers: { "content-type": "text/html" },
      });
    await using server = serve({}, { after: [page] });
    const window = await openPage(browser, `${server.url}/`);
    const visit = async (path: string, offers: unknown) => {
      const seen = await window.page.evaluate(`new Promise((resolve) => {
        const socket = new WebSocket(
          "${server.wsUrl}${path}",
          ${JSON.stringify(offers)},
        );
        const seen = [];
        socket.onopen = () => seen.push(socket.protocol);
        socket.onmessage = ({ data }) => {
          seen.push(JSON.parse(data).event);
          socket.close();
        };
        socket.onclose = () => resolve(seen);
      })`);
      return seen as unknown[];
    };
    const path = "/app/app-key?protocol=7";
    const established = "pusher:connection_established";
    for (const offers of [`${PREFIX}7`, ["chat", `${PREFIX}6`, `${PREFIX}7`]]) {
      const chosen = typeof offers === "string" ? offers : `${PREFIX}6`;
      assertEquals(await visit(path, offers), [chosen, established]);
    }
    // No answer would be right: the page has asked for what the server cannot speak.
    assertEquals(await visit(path, "chat"), []);
    const refused = await visit("/app/nobody", `${PREFIX}7`);
    assertEquals(refused, [`${PREFIX}7`, "pusher:error"]);
    await window.page.close();
  },
);

Deno.test("a subprotocol names the protocol version where the query names none", async () => {
  await using server = serve({ strictProtocol: true });
  const established = "pusher:connection_established";
  const visit = (query: string, offers: string[]) =>
    open(`${server.wsUrl}/app/app-key${query}`, offers);
  assertEquals(await visit("", [`${PREFIX}5`]), [`${PREFIX}5`, established]);
  assertEquals(
    await visit("", ["chat", `${PREFIX}7`]),
    [`${PREFIX}7`, established],
  );
  // The query has the last word.
  assertEquals(
    await visit("?protocol=6", [`${PREFIX}7`]),
    [`${PREFIX}7`, established],
  );
  for (
    const [query, headers, code] of [
      ["", {}, 4008],
      ["", { "sec-websocket-protocol": `chat, ${PREFIX}8` }, 4008],
      ["?protocol=3", { "sec-websocket-protocol": `${PREFIX}7` }, 4007],
      ["?protocol=x", { "sec-websocket-protocol": `${PREFIX}7` }, 4006],
    ] as const
  ) {
    assertEquals((await server.turnsAway({ query, headers })).code, code);
  }
});
