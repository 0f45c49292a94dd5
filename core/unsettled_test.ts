import { assertEquals } from "@std/assert";
import { Unsettled } from "./unsettled.ts";

Deno.test("settled waits for calls, those that fail and those that follow", async () => {
  const calls = new Unsettled();
  const done: string[] = [];
  const first = Promise.withResolvers<void>();
  const second = Promise.withResolvers<void>();
  const failing = calls.track(first.promise) as Promise<void>;
  const handled = failing.catch(() => {
    calls.track(second.promise);
    done.push("first");
  });
  const settled = calls.settled().then(() => done.push("settled"));
  first.reject(new Error("away"));
  await handled;
  second.promise.then(() => done.push("second"));
  second.resolve();
  await settled;
  assertEquals(done, ["first", "second", "settled"]);
});

Deno.test("an answer that is there already is not waited for", async () => {
  const calls = new Unsettled();
  assertEquals(calls.track(7), 7);
  await calls.settled();
});
