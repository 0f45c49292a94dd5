import { assert, assertEquals } from "@std/assert";
import { Random } from "../tests/support/random.ts";
import { type Entry, FairQueue } from "./fair_queue.ts";

const ALL = { entries: Infinity, bytes: Infinity };

/** A queue of texts, each of as many bytes as it has characters. */
class TextQueue extends FairQueue<string> {
  /** Adds texts, which begin with the name of their stream. */
  add(source: string, ...texts: string[]): Entry<string>[] {
    return texts.map((text) => {
      const stream = text.replace(/\d+$/, "");
      const group = stream.startsWith("p") ? 0 : 1;
      return this.push(text, text.length, { stream, group, source });
    });
  }

  /** Takes one entry after the other; joins them. */
  takeEach(count = Infinity): string {
    const texts: string[] = [];
    while (texts.length < count && this.size > 0) {
      const taken = this.take({ entries: 1, bytes: 0 });
      assertEquals(taken.length, 1);
      texts.push(taken[0]!.item);
    }
    return texts.join(" ");
  }
}

Deno.test("entries of one source and stream come out as they went in", () => {
  const queue = new TextQueue(2);
  queue.add("ann", "a1", "a2", "a3");
  assertEquals([queue.size, queue.bytes], [3, 6]);
  assertEquals(queue.takeEach(), "a1 a2 a3");
  assertEquals([queue.size, queue.bytes], [0, 0]);
  assertEquals(queue.take(ALL), []);
});

Deno.test("groups take turns, in them sources, and in these streams", () => {
  const queue = new TextQueue(2);
  queue.add("eve", "a1", "a2", "b1", "b2", "c1");
  queue.add("ann", "d1");
  assertEquals(queue.takeEach(), "a1 d1 b1 c1 a2 b2");
  queue.add("eve", "a1", "b1", "c1", "d1", "pe1", "pe2");
  queue.add("ann", "pa1");
  const all = queue.takeEach().split(" ");
  assertEquals(
    all.slice(0, 3).filter((text) => text.startsWith("p")).length,
    2,
  );
  assertEquals(all.filter((text) => text.startsWith("p")), [
    "pe1",
    "pa1",
    "pe2",
  ]);
});

Deno.test("a source with any number of streams delays another by one entry per turn", () => {
  const queue = new TextQueue(2);
  for (let i = 0; i < 5_000; i++) queue.add("eve", `x-${i}-`);
  queue.add("ann", "a1", "a2");
  const first = queue.takeEach(4).split(" ");
  assertEquals(first.filter((text) => text.startsWith("a")), ["a1", "a2"]);
  assertEquals(queue.size, 4_998);
});

Deno.test("take stops at so many entries or bytes, and returns them in their order", () => {
  const queue = new TextQueue(2);
  const texts = (most: { entries: number; bytes: number }) =>
    queue.take(most).map(({ item }) => item);
  queue.add("eve", "a1", "a2", "a3");
  queue.add("ann", "bbbb1");
  // In turns, ann's is the second.
  assertEquals(texts({ entries: 2, bytes: 100 }), ["a1", "bbbb1"]);
  assertEquals(texts({ entries: 9, bytes: 4 }), ["a2", "a3"]);
  queue.add("eve", "a1", "a2", "a3");
  assertEquals(texts({ entries: 9, bytes: 5 }), ["a1", "a2"]);
  assertEquals(texts({ entries: 9, bytes: 0 }), ["a3"]);
});

Deno.test("a stream waits with the source that has the least to wait for, all of it together", () => {
  const queue = new TextQueue(2);
  queue.add("eve", "a1", "b1", "c1", "d1");
  queue.add("ann", "d2");
  assertEquals(queue.takeEach(), "a1 d1 b1 d2 c1");
  // Of two that wait as long, it stays where it is.
  queue.add("ann", "a1");
  queue.claim("a", "bob");
  queue.add("bob", "b1", "c1");
  queue.claim("c", "ann");
  assertEquals(queue.takeEach(), "a1 b1 c1");
  // An unknown source is never better than a known one.
  queue.add("eve", "a1", "b1", "c1");
  queue.add("", "d1", "e1");
  queue.claim("e", "eve");
  queue.claim("a", "");
  queue.claim("nothing", "ann");
  assertEquals(queue.takeEach(), "a1 d1 b1 c1 e1");
});

Deno.test("remove takes an entry out, wherever it waits", () => {
  const queue = new TextQueue(2);
  const [first, second, third] = queue.add("eve", "a1", "a2", "b1");
  queue.remove(second!);
  queue.remove(third!);
  assertEquals([queue.size, queue.bytes], [1, 2]);
  queue.remove(first!);
  assertEquals(queue.take(ALL), []);
  assertEquals([queue.size, queue.bytes], [0, 0]);
});

Deno.test("victim is the next entry of the heaviest source, and none if a new one is of that source", () => {
  const queue = new TextQueue(2);
  const victim = (source: string, stream = "new", group = 1) =>
    queue.victim({ stream, group, source })?.item;
  assertEquals(victim("ann"), undefined);
  queue.add("eve", "a1", "b1", "c1");
  queue.add("ann", "d1");
  assertEquals(victim("ann"), "a1");
  assertEquals(victim("eve"), undefined);
  assertEquals(victim("bob"), "a1");
  // What is of a stream waits where that stream does.
  assertEquals(victim("ann", "c"), undefined);
  queue.takeEach();
  queue.add("ann", "d1");
  assertEquals(victim("eve"), "d1");
  assertEquals(victim("eve", "pa", 0), "d1");
});

Deno.test("any order of calls keeps streams in order, and the figures right", () => {
  const random = new Random(1);
  const queue = new TextQueue(2);
  const waiting = new Set<Entry<string>>();
  const sources = ["", "ann", "bob", "eve"];
  const streams = ["a", "b", "c", "pa", "pb"];
  const counts = new Map<string, number>();
  const last = new Map<string, number>();
  for (let i = 0; i < 20_000; i++) {
    const stream = random.of(streams);
    const source = random.of(sources);
    switch (random.of(["add", "add", "claim", "remove", "take", "victim"])) {
      case "add": {
        const count = (counts.get(stream) ?? 0) + 1;
        counts.set(stream, count);
        for (const entry of queue.add(source, `${stream}${count}`)) {
          waiting.add(entry);
        }
        break;
      }
      case "claim":
        queue.claim(stream, source);
        break;
      case "remove":
        for (const entry of waiting) {
          if (random.next() < 0.7) continue;
          queue.remove(entry);
          waiting.delete(entry);
          break;
        }
        break;
      case "victim": {
        const group = stream.startsWith("p") ? 0 : 1;
        const entry = queue.victim({ stream, group, source });
        assert(entry === undefined || waiting.has(entry));
        break;
      }
      case "take":
        for (const entry of queue.take({ entries: 3, bytes: 9 })) {
          assert(waiting.delete(entry));
          const { name } = entry.stream;
          const number = Number(entry.item.slice(name.length));
          assert(number > (last.get(name) ?? 0), `${entry.item}`);
          last.set(name, number);
        }
        break;
    }
    const bytes = [...waiting].reduce((sum, entry) => sum + entry.bytes, 0);
    assertEquals([queue.size, queue.bytes], [waiting.size, bytes]);
  }
  assertEquals(queue.take(ALL).length, waiting.size);
});
