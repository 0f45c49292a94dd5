/**
 * What a server knows of a channel that it holds.
 */
import type { BackplaneNode } from "../../core/backplane.ts";
import { assertEquals } from "@std/assert";
import { HeldChannel } from "./channels.ts";
import { Keys } from "./keys.ts";

Deno.test("HeldChannel tells its subscribers of a member only where that is news", () => {
  const delivered: string[] = [];
  const deliver = (
    _app: string,
    _channel: string,
    { event }: { event: string },
  ) => {
    delivered.push(event);
  };
  // It needs no more of a server.
  const node = { deliver } as unknown as BackplaneNode;
  const keys = new Keys("test").channel("1", "presence-room");
  const held = new HeldChannel(keys, node);
  held.begin({ epoch: "e", offset: 1 }, new Map([["ann", "{}"]]));
  let offset = 1;
  const take = (who: { added: string } | { removed: string }) => {
    const position = { epoch: "e", offset: ++offset };
    const [event] = Object.entries(who).map((pair) => pair.join(" "));
    held.take({ message: { event: event ?? "" }, position, ...who });
  };
  // A flushed Redis does not know whom it announces a second time.
  take({ added: "ann" });
  take({ added: "bob" });
  take({ added: "bob" });
  take({ removed: "ann" });
  take({ removed: "ann" });
  take({ added: "ann" });
  assertEquals(delivered, ["added bob", "removed ann", "added ann"]);
  assertEquals(held.position, { epoch: "e", offset: 7 });
});
