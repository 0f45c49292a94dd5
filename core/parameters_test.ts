import { assertEquals } from "@std/assert";
import { lowerCaseNames, parameterOf } from "./parameters.ts";

Deno.test("lowerCaseNames keeps values, their order and repeated names", () => {
  const list = (query: string) => [
    ...lowerCaseNames(new URL(`http://example.com/?${query}`)),
  ];
  assertEquals(list("Auth_Key=A&b=B&auth_key=a"), [
    ["auth_key", "A"],
    ["b", "B"],
    ["auth_key", "a"],
  ]);
  assertEquals(list("a=1&%41=2&b=%43&%C3%89=É"), [
    ["a", "1"],
    ["a", "2"],
    ["b", "C"],
    ["é", "É"],
  ]);
  assertEquals(list("a=B?C=D&e"), [["a", "B?C=D"], ["e", ""]]);
  assertEquals(list(""), []);
});

Deno.test("parameters are those that URLSearchParams finds, with escapes or without", () => {
  const names = ["a", "ab", "b", "auth_key", "A", ""];
  const parts = [
    ...names,
    ...["a=", "a=1", "ab=2", "b=a", "b=a=3", "=a", "=", "A=4", "c=auth_key"],
    ...["auth_key=k", "xauth_key=l", "a=%31", "%61=5", "a=1+1", "é=ü", "a?=6"],
  ];
  const queries = parts.flatMap((one) =>
    parts.flatMap((two) => [
      ...[one, `${one}&${two}`, `${one}&&${two}&`, `&${one}&x=1&${two}`],
    ])
  );
  for (const query of ["", ...queries]) {
    const url = new URL(`http://example.com/?${query}`);
    const { searchParams } = url;
    const lower = new URLSearchParams(
      [...searchParams].map(([name, value]) => [name.toLowerCase(), value]),
    );
    const found = lowerCaseNames(url);
    assertEquals([...found], [...lower], query);
    assertEquals(found.size, lower.size, query);
    // Nobody asks for a parameter without a name.
    for (const name of names.filter((name) => name !== "")) {
      assertEquals(parameterOf(url, name), searchParams.get(name), query);
      assertEquals(found.get(name), lower.get(name), query);
      assertEquals(found.has(name), lower.has(name), query);
    }
  }
});
