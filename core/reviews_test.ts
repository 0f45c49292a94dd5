import { assertEquals, assertThrows } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import type { ReviewClientEvent, SentClientEvent } from "./calls.ts";
import { DEFAULT_LIMITS, isRefusal } from "./limits.ts";
import { checkAnswer, Reviews, type Verdict } from "./reviews.ts";

const SENT = {
  app: "1",
  channel: "private-a",
  event: "client-x",
  data: 1,
  socketId: "1.1",
};

/** Reviews by a function, and the verdicts that were carried out. */
function reviewsBy(review: ReviewClientEvent) {
  const clock = new ManualClock();
  const errors: unknown[] = [];
  const verdicts: Verdict[] = [];
  const reviews = new Reviews(review, DEFAULT_LIMITS, {
    clock,
    answerTimeoutMs: 1_000,
    ended: new AbortController().signal,
    hooks: { fail: (error) => void errors.push(error) },
  });
  const take = (carryOut = (_: Verdict): void | Promise<void> => {}) =>
    reviews.take({ sent: SENT, data: "1" }, (verdict) => {
      verdicts.push(verdict);
      return carryOut(verdict);
    });
  return { clock, errors, verdicts, take };
}

/** Lets every promise go on that can. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("Reviews carries out an answer that comes at once in the same turn, without a timer", () => {
  const asked: SentClientEvent[] = [];
  const { clock, verdicts, take } = reviewsBy((event) => {
    asked.push(event);
    return true;
  });
  assertEquals(take(), undefined);
  assertEquals(verdicts, [{ data: "1" }]);
  assertEquals(clock.waiting, 0);
  const { signal: _, ...seen } = asked[0]!;
  assertEquals(seen, SENT);
});

Deno.test("Reviews keeps a timer while an answer is awaited, and no longer", async () => {
  const answer = Promise.withResolvers<boolean>();
  const { clock, verdicts, take } = reviewsBy(() => answer.promise);
  take();
  assertEquals([clock.waiting, verdicts], [1, []]);
  answer.resolve(true);
  await turn();
  assertEquals([clock.waiting, verdicts], [0, [{ data: "1" }]]);
});

Deno.test("Reviews leaves no timer behind a function that asks for its signal and answers at once", async () => {
  const fail = () => {
    throw new Error("boom");
  };
  const answers = [
    (signal: AbortSignal) => !signal.aborted,
    fail,
    // It throws where it is asked whether it is a promise.
    () => Object.defineProperty({ data: 1 }, "then", { get: fail }),
  ];
  for (const answer of answers) {
    const { clock, take } = reviewsBy(({ signal }) => answer(signal));
    await take();
    await turn();
    assertEquals(clock.waiting, 0);
  }
});

Deno.test("Reviews goes on after a verdict that could not be carried out", async () => {
  const { errors, verdicts, take } = reviewsBy(() => Promise.resolve(true));
  let calls = 0;
  for (let n = 0; n < 50; n++) {
    take(() => {
      calls++;
      if (calls === 1) throw new Error("no backplane");
    });
    // So many may not wait at once.
    if (n % 10 === 9) await turn();
  }
  assertEquals(errors.map(String), ["Error: no backplane"]);
  const refused = verdicts.filter(isRefusal).map(({ error }) => error);
  assertEquals(refused, ["The server could not relay the event"]);
  assertEquals(verdicts.length, 51);
});

Deno.test("checkAnswer takes true, false, a reason, null, or data alone", () => {
  const check = (answer: unknown, channel = "private-a") =>
    checkAnswer(answer, channel, "sent", DEFAULT_LIMITS);
  const told = (answer: unknown) => {
    const verdict = check(answer);
    return isRefusal(verdict) ? verdict.error : verdict;
  };
  assertEquals(told(true), { data: "sent" });
  assertEquals(told({ data: [1] }), { data: "[1]" });
  assertEquals(told({ data: undefined }), { data: undefined });
  assertEquals(told(null), null);
  assertEquals(told("Be kind"), "Be kind");
  assertEquals(told(false), "The server does not allow this event");
  const wrong = [undefined, 0, 1, {}, [], { Data: 1 }, { data: 1, event: "" }];
  for (const answer of wrong) assertThrows(() => check(answer), TypeError);
  assertThrows(() => check({ data: "d".repeat(10_241) }), RangeError);
  const encrypted = "private-encrypted-cache-a";
  assertThrows(() => check({ data: "d" }, encrypted), TypeError, "encrypted");
  assertEquals(check(true, encrypted), { data: "sent" });
});
