/**
 * What a reader of `deno doc` sees of the package.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertEquals } from "@std/assert";
import manifest from "../deno.json" with { type: "json" };

const ROOT = new URL("..", import.meta.url);

/** The parts of the output of `deno doc --json` that matter here. */
interface Documentation {
  nodes: Record<string, { module_doc?: unknown; symbols: Exported[] }>;
}

interface Exported {
  name: string;
  declarations: {
    kind: string;
    jsDoc?: { doc?: string };
    def: { methods?: { name: string }[]; properties?: { name: string }[] };
  }[];
}

/** A class, and the names of its members. */
interface ExportedClass {
  name: string;
  comment: string;
  members: string[];
}

async function denoDoc(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

const documentations = new Map<string, Promise<Documentation>>();

/** What `deno doc --json` says of a file; it takes a while. */
function documentationOf(file: string): Promise<Documentation> {
  const known = documentations.get(file) ??
    denoDoc("--json", file).then((json) => JSON.parse(json));
  documentations.set(file, known);
  return known;
}

async function classesOf(file: string): Promise<ExportedClass[]> {
  const { nodes } = await documentationOf(file);
  const symbols = Object.values(nodes).flatMap(({ symbols }) => symbols);
  return symbols.flatMap(({ name, declarations }) =>
    declarations.filter(({ kind }) => kind === "class").map(
      ({ jsDoc, def: { methods = [], properties = [] } }) => ({
        name,
        comment: jsDoc?.doc ?? "",
        members: [...methods, ...properties].map(({ name }) => name),
      }),
    )
  );
}

/** The texts between back quotes. */
function quotedIn(text: string): string[] {
  return [...text.matchAll(/`([^`\n]+)`/g)].map(([, name]) => name!);
}

/** The part of the printed documentation that is about a class. */
function sectionOf(name: string, printed: string): string {
  const sections = printed.split(/^Defined in .*$/m);
  const start = new RegExp(`^(?:default )?class ${name}\\b`, "m");
  return sections.find((section) => start.test(section)) ?? "";
}

// The printer leaves out the names that a class has twice, as a static and as a
// member of its instances. So the comment of such a class lists them.
Deno.test("deno doc names every member of every exported class", async () => {
  let checked = 0;
  for (const file of Object.values(manifest.exports)) {
    const printed = await denoDoc(file);
    for (const { name, members } of await classesOf(file)) {
      const section = sectionOf(name, printed);
      assert(section !== "", `${name} of ${file}`);
      const signatures = section.match(/^ {2}\S.*$/gm) ?? [];
      const quoted = quotedIn(section);
      const missing = members.filter((member) => {
        const named = new RegExp(`(?:^| )${RegExp.escape(member)}[(?:<]`);
        return !quoted.includes(member) &&
          !signatures.some((line) => named.test(line));
      });
      assertEquals(missing, [], `${name} of ${file}`);
      checked += members.length;
    }
  }
  assert(checked >= 100, `${checked} members`);
});

/** The names of an object's own members, as documentation writes them. */
function ownNames(holder: object): string[] {
  return Reflect.ownKeys(holder).map((key) =>
    typeof key === "string" ? key : `[${key.description}]`
  );
}

Deno.test("the comment of Pusher lists every member by task, and says which are statics", async () => {
  const classes = await classesOf(manifest.exports["."]);
  const { comment = "" } = classes.find(({ name }) => name === "Pusher") ?? {};
  const items = comment.match(/^- [A-Z].*:.*(?:\n {2}.*)*$/gm) ?? [];
  const listed = items.flatMap(quotedIn);

  await using pusher = new Pusher();
  const members = [...ownNames(Pusher.prototype), ...ownNames(pusher)]
    .filter((name) => name !== "constructor");
  assertEquals(listed.toSorted(), members.toSorted());

  const statics = ownNames(Pusher)
    .filter((name) => !["length", "name", "prototype"].includes(name));
  const [, ofInstances = ""] = /All except (.*?) exist/s.exec(comment) ?? [];
  assertEquals(
    quotedIn(ofInstances).toSorted(),
    members.filter((name) => !statics.includes(name)).toSorted(),
  );
  const [, ofClass = ""] = /Statics only: (.*?)\.$/ms.exec(comment) ?? [];
  assertEquals(
    quotedIn(ofClass).toSorted(),
    statics.filter((name) => !members.includes(name)).toSorted(),
  );
});

Deno.test("deno doc --filter prints a member of Pusher, as its comment says", async () => {
  const [{ comment = "" } = {}] = (await classesOf(manifest.exports["."]))
    .filter(({ name }) => name === "Pusher");
  const [, filter = ""] = /deno doc --filter (\S+) jsr:/.exec(comment) ?? [];
  const printed = await denoDoc("--filter", filter, manifest.exports["."]);
  assert(printed.includes("Publishes an event."), printed);
});

// ---- Examples ----------------------------------------------------------------

/** Values whose example cannot run in a test of documentation, and why. */
const WITHOUT_EXAMPLE: Record<string, string> = {
  "./client preset": "the served scripts alone call it",
  "./client default": "another name of Pusher",
  "./cli default": "it is for `deno serve`",
};

/** Types that no value needs, and why they are exported. */
const WITHOUT_USE = [
  ". NotedKind", // for the journals of other backplanes
];

/** The code of the examples in texts that run as tests. */
function examplesIn(text: string): string {
  const blocks = text.matchAll(/```tsx?\b(?! ignore)[^\n]*\n(.*?)```/gs);
  return Array.from(blocks, ([, code]) => code).join("\n");
}

/** All strings of a part of the documentation, or those below one name. */
function stringsIn(part: unknown, name?: string): string[] {
  const strings: string[] = [];
  JSON.stringify(part, (key, value) => {
    const isMeant = name === undefined || key === name;
    if (isMeant && typeof value === "string") strings.push(value);
    return value;
  });
  return strings;
}

/** The names that a value's signatures lead to. */
function reachableFrom(names: string[], symbols: Exported[]): Set<string> {
  const byName = new Map(symbols.map((symbol) => [symbol.name, symbol]));
  const reached = new Set<string>();
  const visit = (name: string) => {
    const symbol = byName.get(name);
    if (symbol === undefined || reached.has(name)) return;
    reached.add(name);
    const parts = symbol.declarations.map(({ def }) => def);
    stringsIn(parts).forEach(visit);
  };
  names.forEach(visit);
  return reached;
}

Deno.test("every exported value has an example that runs, and every type is of one of them", async () => {
  const guides = ["README.md"];
  for await (const { name } of Deno.readDir(new URL("docs/", ROOT))) {
    if (name.endsWith(".md")) guides.push(`docs/${name}`);
  }
  const texts = await Promise.all(
    guides.map((guide) => Deno.readTextFile(new URL(guide, ROOT))),
  );
  const inGuides = examplesIn(texts.join("\n"));
  const lacking: string[] = [];
  const unused: string[] = [];
  let checked = 0;
  for (const [place, file] of Object.entries(manifest.exports)) {
    const { nodes } = await documentationOf(file);
    for (const { module_doc, symbols } of Object.values(nodes)) {
      const inModule = examplesIn(stringsIn(module_doc, "doc").join("\n"));
      const values = symbols.filter(({ declarations }) =>
        declarations.some(({ kind }) => !/^(interface|typeAlias)$/.test(kind))
      );
      for (const value of values) {
        checked++;
        const own = examplesIn(stringsIn(value, "doc").join("\n"));
        const name = new RegExp(`\\b${RegExp.escape(value.name)}\\b`);
        const hasExample = own !== "" || name.test(inModule) ||
          name.test(inGuides);
        if (!hasExample) lacking.push(`${place} ${value.name}`);
      }
      const reached = reachableFrom(values.map(({ name }) => name), symbols);
      for (const symbol of symbols) {
        const own = examplesIn(stringsIn(symbol, "doc").join("\n"));
        if (reached.has(symbol.name) || own !== "") continue;
        unused.push(`${place} ${symbol.name}`);
      }
    }
  }
  assertEquals(lacking.sort(), Object.keys(WITHOUT_EXAMPLE).sort());
  assertEquals(unused.sort(), WITHOUT_USE);
  assert(checked >= 30, `${checked} values`);
});
