import { assertEquals } from "@std/assert";
import { encodeMembers, MemberList } from "./members.ts";

/** Ids that JSON has to escape, once or twice. */
const ENTRIES: [id: string, info: string][] = [
  ["10", '{"n":1}'],
  ['a"b', "{}"],
  ["back\\slash", '{"text":"line\\nbreak \\"quoted\\""}'],
  ['comma","bracket]}', "null"],
  ["ünï 😀", '{"text":"😀"}'],
  ["lone \ud800", "[1,2]"],
  ["__proto__", '"text"'],
];

/** What clients expect, made by JSON alone. */
function expected(entries: readonly [string, string][]): unknown {
  const ids = entries.map(([id]) => id);
  const fields = entries.map(([id, info]) => [id, JSON.parse(info)]);
  const hash = Object.fromEntries(fields);
  return { presence: { ids, hash, count: entries.length } };
}

Deno.test("a MemberList is encoded alike, all at once and member by member", () => {
  let grown = MemberList.of(new Map());
  for (const [i, [id, info]] of ENTRIES.entries()) {
    grown = grown.with(id, info);
    const entries = ENTRIES.slice(0, i + 1);
    const made = MemberList.of(new Map(entries));
    assertEquals(grown.encoded, made.encoded);
    assertEquals(JSON.parse(JSON.parse(made.encoded)), expected(entries));
  }
});

Deno.test("encodeMembers encodes any map as it encodes a MemberList", () => {
  const map = new Map(ENTRIES);
  const { encoded } = MemberList.of(map);
  assertEquals(encodeMembers(map), encoded);
  assertEquals(encodeMembers(MemberList.of(map)), encoded);
});

Deno.test("a MemberList does not change when others are made from it", () => {
  const [ann, bob] = [["ann", "{}"], ["bob", "{}"]] as const;
  const empty = MemberList.of(new Map());
  const first = empty.with(...ann);
  const both = first.with(...bob);
  // Another list from the same one: it must not get the member of the other.
  const other = first.with("cid", "{}");
  assertEquals([...empty], []);
  assertEquals([...first], [[...ann]]);
  assertEquals([...both], [[...ann], [...bob]]);
  assertEquals([...other], [[...ann], ["cid", "{}"]]);
  assertEquals(JSON.parse(JSON.parse(first.encoded)).presence.ids, ["ann"]);
});

Deno.test("a MemberList is read like a map", () => {
  const list = MemberList.of(new Map(ENTRIES.slice(0, 1))).with("x", "{}");
  assertEquals(list.size, 2);
  assertEquals([list.get("10"), list.get("y")], ['{"n":1}', undefined]);
  assertEquals([list.has("x"), list.has("y")], [true, false]);
  assertEquals([...list.keys()], ["10", "x"]);
  assertEquals([...list.values()], ['{"n":1}', "{}"]);
  const seen: string[] = [];
  list.forEach((info, id) => seen.push(`${id}=${info}`));
  assertEquals(seen, ['10={"n":1}', "x={}"]);
});
