import { assert, assertEquals } from "@std/assert";
import { SocketCount } from "./sockets.ts";

Deno.test("a socket above the limit is still there to be refused", () => {
  const sockets = new SocketCount(2);
  sockets.enter();
  sockets.enter();
  assert(!sockets.isAboveLimit);
  sockets.enter();
  assert(sockets.isAboveLimit);
  sockets.release(false);
  assert(!sockets.isAboveLimit);
});

Deno.test("sockets beyond the reserve are overrun, whoever opened them", () => {
  const sockets = new SocketCount(1);
  assert(!sockets.isOverrun(false));
  sockets.enter();
  assert(!sockets.isOverrun(false));
  sockets.enter();
  assert(sockets.isOverrun(false));
  sockets.release(false);
  assert(!sockets.isOverrun(false));
});

Deno.test("refused clients that stay leave room for others", () => {
  const sockets = new SocketCount(100_000);
  for (let i = 0; i < 1_000; i++) {
    assert(!sockets.isOverrun(true));
    sockets.enter();
    sockets.refuse();
  }
  assert(sockets.isOverrun(true));
  assert(!sockets.isOverrun(false));
  sockets.release(true);
  assert(!sockets.isOverrun(true));
});

Deno.test("empty waits for the last socket", async () => {
  const sockets = new SocketCount(10);
  await sockets.empty();
  sockets.enter();
  sockets.enter();
  const closed: string[] = [];
  const empty = sockets.empty().then(() => closed.push("empty"));
  for (const name of ["first", "second"]) {
    sockets.release(false);
    closed.push(name);
  }
  await empty;
  assertEquals(closed, ["first", "second", "empty"]);
});
