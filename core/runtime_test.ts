import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { inMemory, requireDeno } from "./runtime.ts";

/** Runs with globals such as those of another runtime. */
function as(globals: Record<string, unknown>, run: () => void): void {
  const names = ["Deno", "Bun", "process", "navigator"];
  const own = names.map((name) =>
    [name, Object.getOwnPropertyDescriptor(globalThis, name)] as const
  );
  try {
    for (const name of names) Reflect.deleteProperty(globalThis, name);
    Object.assign(globalThis, globals);
    run();
  } finally {
    for (const [name, property] of own) {
      Reflect.deleteProperty(globalThis, name);
      if (property) Object.defineProperty(globalThis, name, property);
    }
  }
}

Deno.test("requireDeno is silent in Deno, and elsewhere names the runtime and what to run", () => {
  requireDeno("Cannot do it");
  const node = { versions: { node: "22.1.0" } };
  const cases: [globals: Record<string, unknown>, name: string][] = [
    [{ process: node }, "Node.js 22.1.0"],
    [{ process: node, Bun: { version: "1.2.3" } }, "Bun 1.2.3"],
    [{ navigator: { userAgent: "Cloudflare-Workers" } }, "Cloudflare-Workers"],
    [{}, "another runtime"],
  ];
  for (const [globals, name] of cases) {
    let error = "";
    as(globals, () => {
      error = assertThrows(() => requireDeno("Cannot do it"), Error).message;
    });
    const said =
      `Cannot do it: the server of @glitz/pusher needs Deno, and this is ${name}. `;
    assertEquals(error.slice(0, said.length), said);
    assertStringIncludes(error, "deno run --allow-net jsr:@glitz/pusher/cli");
  }
});

Deno.test("inMemory makes a server in any runtime, and nothing after it", () => {
  as({}, () => {
    assertEquals(inMemory(() => (requireDeno("Cannot do it"), "made")), "made");
    assertThrows(() => requireDeno("Cannot do it"), Error, "needs Deno");
    assertThrows(
      () =>
        inMemory(() => {
          throw new Error("No server");
        }),
      Error,
      "No server",
    );
    assertThrows(() => requireDeno("Cannot do it"), Error, "needs Deno");
  });
});
