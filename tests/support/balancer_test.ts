/** The balancer that tests put in front of servers. */
import { MemoryBackplane } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { Balancer } from "./balancer.ts";
import { clientOf, serveHttp } from "./fallback.ts";
import { Client } from "./server.ts";
import { APP, signedRequest, type TestServer } from "./server.ts";

/** Three servers on one memory, behind a balancer. */
async function three(): Promise<
  AsyncDisposable & { servers: TestServer[]; balancer: Balancer }
> {
  const memory = new MemoryBackplane();
  const stack = new AsyncDisposableStack();
  const servers = [memory, memory.peer(), memory.peer()].map((backplane) =>
    stack.use(serveHttp({ backplane }))
  );
  const balancer = stack.use(
    await Balancer.open(servers.map(({ port }) => port)),
  );
  return {
    servers,
    balancer,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

async function connect(balancer: Balancer): Promise<Client> {
  const url = `ws://127.0.0.1:${balancer.port}/app/${APP.key}?protocol=7`;
  const client = new Client(url, APP);
  await client.established();
  return client;
}

Deno.test("Balancer spreads sockets, and passes a close on", async () => {
  await using all = await three();
  const { balancer, servers } = all;
  const clients: Client[] = [];
  for (let i = 0; i < 6; i++) clients.push(await connect(balancer));
  for (const { pusher, port } of servers) {
    assertEquals([pusher.stats().connections, balancer.links(port)], [2, 2]);
  }
  balancer.remove(servers[0]!.port);
  await servers[0]!.pusher.close();
  const codes = [0, 3].map((i) => clients[i]!.closed);
  for (const closed of codes) assertEquals((await closed).code, 4200);
  await using _more = await connect(balancer);
  assertEquals(servers[0]!.pusher.stats().connections, 0);
  assertEquals(balancer.arrivals.length, 7);
  balancer.cut("reset");
  for (const client of clients) await client.closed;
});

Deno.test("Balancer keeps a session over HTTP on its server, and spreads the API", async () => {
  await using all = await three();
  const { balancer, servers } = all;
  for (let i = 0; i < 3; i++) {
    await using client = await clientOf(balancer).open("xhr_streaming");
    await client.join("news");
    for (const n of [1, 2, 3]) {
      const body = { name: "n", channel: "news", data: `${n}` };
      const init = { app: APP, body };
      const request = signedRequest(balancer.origin, "POST", "/events", init);
      const response = await fetch(request);
      assertEquals([response.status, await response.json()], [200, {}]);
      assertEquals((await client.frame("n")).data, `${n}`);
    }
  }
  const counts = servers.map(({ pusher }) => pusher.stats().transports);
  assertEquals(counts.every(({ xhr_streaming: n = 0 }) => n <= 1), true);
});

Deno.test("Balancer passes on to another server where one does not answer", async () => {
  await using all = await three();
  const { balancer, servers } = all;
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  taken.close();
  balancer.add(port);
  for (const { port } of servers.slice(1)) balancer.remove(port);
  for (let i = 0; i < 3; i++) {
    await using client = await connect(balancer);
    assertEquals(await client.framesUntilPong(), []);
  }
});
