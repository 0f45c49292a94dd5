import { assertEquals } from "@std/assert";
import { Holdings } from "./holdings.ts";

Deno.test("connections without a user are counted together", () => {
  const holdings = new Holdings();
  assertEquals(holdings.count(undefined, 1, false), {
    connections: 1,
    recovering: 0,
  });
  const both = { connections: 2, recovering: 1 };
  assertEquals(holdings.count(undefined, 1, true), both);
  assertEquals(holdings.all, both);
  assertEquals(holdings.users, null);
  assertEquals(holdings.count(undefined, -1, true), {
    connections: 1,
    recovering: 0,
  });
});

Deno.test("each user's connections are counted, and gone with the last", () => {
  const holdings = new Holdings();
  holdings.count("ann", 1, true);
  assertEquals(holdings.count("ann", 1, false), {
    connections: 2,
    recovering: 1,
  });
  // Those who can recover are counted over all users.
  assertEquals(holdings.count("bob", 1, true), {
    connections: 1,
    recovering: 2,
  });
  assertEquals([...holdings.users ?? []], [["ann", 2], ["bob", 1]]);
  assertEquals(holdings.count("bob", -1, true), {
    connections: 0,
    recovering: 1,
  });
  assertEquals([...holdings.users ?? []], [["ann", 2]]);
  assertEquals(holdings.all, { connections: 2, recovering: 1 });
});
