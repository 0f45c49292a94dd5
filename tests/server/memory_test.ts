/**
 * What peers that do not behave cost in memory, measured from outside: a server in a
 * process of its own, and sockets that never read.
 */
import { assertLess } from "@std/assert";
import { start } from "../support/program.ts";
import { RawClient, wireFrame } from "../support/wire.ts";

const PEERS = 100;
/** Far above what the system's own buffers and the heap's garbage vary by. */
const MAX_GROWN = 60 * 2 ** 20;

for (const bytes of [200, 10_000]) {
  Deno.test(`${PEERS} peers that never read take little memory until they are given up, and after: events of ${bytes} bytes`, async () => {
    const args = ["run", "-A", "--no-check", "tests/support/memory_server.ts"];
    await using program = await start(args, /port (\d+)/);
    const port = Number(program.ready[1]);
    using peers = new DisposableStack();
    const data = { channel: "news" };
    const subscribe = wireFrame(
      JSON.stringify({ event: "pusher:subscribe", data }),
    );
    for (let n = 0; n < PEERS; n++) {
      const peer = peers.use(await RawClient.connect(port));
      await peer.upgrade("/app/app-key?protocol=7");
      await peer.write(subscribe);
      // Its established and succeeded frames; it reads nothing after them.
      await peer.readText();
      await peer.readText();
    }
    const url = `http://127.0.0.1:${port}/publish?bytes=${bytes}`;
    const { grown } = await (await fetch(url)).json();
    assertLess(grown, MAX_GROWN);
  });
}
