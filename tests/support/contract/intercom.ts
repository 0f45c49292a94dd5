/**
 * What servers say to each other: who hears it, in which order, and what becomes of
 * it when servers and their connections come and go.
 *
 * @module
 */
import type { Intercom } from "@glitz/pusher";
import { assertEquals, assertExists, assertRejects } from "@std/assert";
import { INTERCOM_UNITS } from "../../../core/intercom.ts";
import type { FakeServer } from "./server.ts";
import { type Fault, numbers, type Register, type Stage } from "./stage.ts";

function intercomOf({ backplane: { intercom } }: FakeServer): Intercom {
  assertExists(intercom, "There is no intercom");
  return intercom;
}

/** What a server hears under a label, from now on. */
function listen(server: FakeServer, label: string): string[] {
  const heard: string[] = [];
  intercomOf(server).listen(label, (text) => heard.push(text));
  return heard;
}

/** Waits until as many servers listen for a label; says that as `fence`. */
async function listening(
  stage: Stage,
  server: FakeServer,
  label: string,
  count: number,
): Promise<void> {
  await stage.eventually(() => intercomOf(server).say(label, "fence"), count);
}

function withoutFences(heard: readonly string[]): string[] {
  return heard.filter((text) => text !== "fence");
}

export function testIntercom(test: Register, faults: Set<Fault>): void {
  test("what is said reaches all servers that listen for its label, which are counted", async (stage) => {
    const [one, two] = await stage.two();
    const three = await stage.server();
    assertEquals(await intercomOf(one).say("a", "nobody listens"), 0);
    const heard = [one, two].map((server) => listen(server, "a"));
    const others = [listen(two, "A"), listen(three, "a}:i:{ b")];
    await listening(stage, three, "a", 2);
    await listening(stage, three, "A", 1);
    await listening(stage, one, "a}:i:{ b", 1);
    const texts = ["", " ", "{}\n\0", "Änn € 😀", "x".repeat(INTERCOM_UNITS)];
    for (const text of texts) {
      assertEquals(await intercomOf(three).say("a", text), 2);
    }
    for (const all of heard) {
      await stage.eventually(() => withoutFences(all).length, texts.length);
      assertEquals(withoutFences(all), texts);
    }
    assertEquals(others.map(withoutFences), [[], []]);
  });

  test("a text that is too long is refused and reaches nobody", async (stage) => {
    const [one, two] = await stage.two();
    const heard = listen(two, "a");
    await listening(stage, one, "a", 1);
    const long = "x".repeat(INTERCOM_UNITS + 1);
    const say = async () => await intercomOf(one).say("a", long);
    await assertRejects(say, RangeError, `at most ${INTERCOM_UNITS}`);
    await intercomOf(one).say("a", "last");
    await stage.eventually(() => heard.at(-1), "last");
    assertEquals(withoutFences(heard), ["last"]);
  });

  test("each listener hears what one server says in its order, also what listeners say", async (stage) => {
    const [one, two] = await stage.two();
    const [first, second] = [intercomOf(one), intercomOf(two)];
    const heard: [string[], string[]] = [[], []];
    // One server repeats what it hears, while that is on its way to the others.
    first.listen("a", (text) => {
      heard[0].push(text);
      if (!text.startsWith("+")) first.say("a", `+${text}`);
    });
    second.listen("a", (text) => heard[1].push(text));
    await listening(stage, one, "a", 2);
    const texts = numbers(1, 50);
    await Promise.all(texts.map((text) => first.say("a", text)));
    for (const all of heard) {
      await stage.eventually(() => all.at(-1), "+50");
      const own = withoutFences(all).filter((text) => text !== "+fence");
      assertEquals(own.filter((text) => !text.startsWith("+")), texts);
      assertEquals(
        own.filter((text) => text.startsWith("+")),
        texts.map((text) => `+${text}`),
      );
    }
  });

  test("a listener may begin before the start, and hears until it ends", async (stage) => {
    const one = await stage.server();
    const two = stage.connect();
    const heard: string[] = [];
    const again: string[] = [];
    const end = intercomOf(two).listen("a", (text) => heard.push(text));
    const endAgain = intercomOf(two).listen("a", (text) => again.push(text));
    await two.backplane.start(two);
    await listening(stage, one, "a", 1);
    await intercomOf(one).say("a", "1");
    await stage.eventually(() => again.at(-1), "1");
    end();
    end();
    await intercomOf(one).say("a", "2");
    await stage.eventually(() => again.at(-1), "2");
    assertEquals(withoutFences(heard), ["1"]);
    endAgain();
    await listening(stage, one, "a", 0);
    const later = listen(two, "a");
    await listening(stage, one, "a", 1);
    await stage.eventually(() => later.at(-1), "fence");
    await two.backplane.close();
    await listening(stage, one, "a", 0);
    assertEquals(withoutFences(again), ["1", "2"]);
  });

  if (faults.has("flush")) {
    test("after a flush servers go on to hear each other", async (stage) => {
      const [one, two] = await stage.two();
      const heard = listen(two, "a");
      await listening(stage, one, "a", 1);
      await stage.deployment.flush?.();
      await one.enter("news");
      await listening(stage, one, "a", 1);
      await intercomOf(one).say("a", "last");
      await stage.eventually(() => heard.at(-1), "last");
    });
  }
  if (faults.has("deafness")) {
    test("a server that was deaf hears again, and also what it listened for meanwhile", async (stage) => {
      const [one, two] = await stage.two();
      const heard = listen(two, "a");
      await listening(stage, one, "a", 1);
      let later: string[] = [];
      await stage.deployment.deafen?.(two.backplane, async () => {
        await Promise.resolve();
        later = listen(two, "b");
      });
      await listening(stage, one, "b", 1);
      await listening(stage, one, "a", 1);
      await intercomOf(one).say("a", "last");
      await intercomOf(one).say("b", "last");
      await stage.eventually(() => [heard.at(-1), later.at(-1)], [
        "last",
        "last",
      ]);
    });
  }
}
