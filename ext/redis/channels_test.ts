/**
 * What a server knows of a channel that it holds.
 */
import type { BackplaneNode, Position } from "../../core/backplane.ts";
import { assertEquals } from "@std/assert";
import { HeldChannel } from "./channels.ts";
import { Keys } from "./keys.ts";

/** A presence channel of which ann is a member, and what its subscribers hear. */
function room() {
  const heard: string[] = [];
  const deliver: BackplaneNode["deliver"] = (
    _app,
    _channel,
    { event },
    { offset },
  ) => {
    heard.push(`${event} at ${offset}`);
  };
  // It needs no more of a server.
  const node = {
    deliver,
    lost: (_app: string, _channel: string, { offset }: Position) => {
      heard.push(`lost up to ${offset}`);
    },
    arrival: (_channel: string, { userId }: { userId: string }) => ({
      event: `arrival ${userId}`,
    }),
    departure: (_channel: string, userId: string) => ({
      removed: { event: `departure ${userId}` },
    }),
  } as unknown as BackplaneNode;
  const keys = new Keys("test").channel("1", "presence-room");
  const held = new HeldChannel(keys, node);
  held.begin(at(1), list("ann"));
  const take = (
    offset: number,
    who: { added: string } | { removed: string },
    epoch?: string,
  ) => {
    const [event = ""] = Object.entries(who).map((pair) => pair.join(" "));
    const position = at(offset, epoch);
    return held.take({ message: { event }, position, ...who });
  };
  return { held, heard, take };
}

function at(offset: number, epoch = "e"): Position {
  return { epoch, offset };
}

function list(...users: string[]): Map<string, string> {
  return new Map(users.map((user) => [user, "{}"]));
}

Deno.test("HeldChannel tells its subscribers of a member only where that is news", () => {
  const { held, heard, take } = room();
  // A flushed Redis does not know whom it announces a second time.
  take(2, { added: "ann" });
  take(3, { added: "bob" });
  take(4, { added: "bob" });
  take(5, { removed: "ann" });
  take(6, { removed: "ann" });
  take(7, { added: "ann" });
  assertEquals(heard, [
    ...["added bob at 3", "removed ann at 5", "added ann at 7"],
  ]);
  assertEquals(held.position, at(7));
});

Deno.test("HeldChannel tells its subscribers of a flush also where a member is no news", () => {
  const { held, heard, take } = room();
  // Another server registers ann before this one is registered again.
  take(2, { added: "ann" }, "after");
  take(3, { added: "bob" }, "after");
  assertEquals(heard, ["lost up to 2", "added bob at 3"]);
  assertEquals(held.position, at(3, "after"));
});

Deno.test("HeldChannel takes no list of members that later messages have overtaken", () => {
  const { held, heard, take } = room();
  take(2, { removed: "ann" });
  take(3, { added: "bob" });
  // It was asked for, and answered, before both.
  held.goOn(at(1), [], list("ann"), false, []);
  take(4, { added: "ann" });
  assertEquals(heard, ["removed ann at 2", "added bob at 3", "added ann at 4"]);
});

Deno.test("HeldChannel tells who came and went in a gap, also to who joined in it", () => {
  const { held, heard, take } = room();
  // Ann has left at 2, which did not arrive, and comes back at 4.
  assertEquals(take(3, { added: "bob" }), true);
  held.begin(at(3), list("bob"));
  take(4, { added: "ann" });
  held.goOn(at(4), [], list("bob", "ann"), false, []);
  // Who joined at 3 hears what is later.
  assertEquals(heard, [
    "departure ann at 3",
    "arrival bob at 3",
    "arrival ann at 4",
  ]);
});

Deno.test("HeldChannel takes nobody for gone while others are yet to register members", () => {
  const { held, heard } = room();
  held.wait();
  held.goOn(at(1), [], list("bob"), true, []);
  assertEquals(heard, ["arrival bob at 1"]);
  held.goOn(at(1), [], list("bob"), false, []);
  assertEquals(heard, ["arrival bob at 1", "departure ann at 1"]);
});
