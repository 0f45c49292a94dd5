/**
 * `docs/migrating.md` as a reader follows it: its settings as they stand, with
 * unmodified clients and SDKs. Only the ports are others.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import LaravelEcho from "npm:laravel-echo@2.5.0";
import StockServerSdk from "pusher";
import { LOCAL, start } from "./support/cli.ts";
import { within } from "./support/deadline.ts";
import { findInstalled } from "./support/installed.ts";
import { PusherJs } from "./support/stock.ts";

const GUIDE = await Deno.readTextFile(
  new URL("../docs/migrating.md", import.meta.url),
);

/** The part of the guide below a heading. */
const [FROM_PUSHER, FROM_SOKETI, FROM_REVERB] = ["Pusher", "soketi", "Reverb"]
  .map((name) => {
    const [, part = ""] = GUIDE.split(`## From ${name}\n`);
    return part.split(/^## /m)[0]!;
  }) as [string, string, string];

/** The snippets of one kind in a part, as they stand. */
function snippets(part: string, kind: string): string[] {
  return Array.from(
    part.matchAll(RegExp(`^ *\`\`\`${kind}\\n(.*?)^ *\`\`\`$`, "gms")),
    ([, code = ""]) => code.replaceAll(/^ {3}/gm, ""),
  );
}

/** Starts the standalone server as the first command of a part says. */
function startAs(part: string, ...more: string[]) {
  const [command = ""] = snippets(part, "sh");
  const env = Object.fromEntries(
    Array.from(
      command.matchAll(/(PUSHER_\w+)=(\S+)/g),
      ([, name, value]) => [name!, value!],
    ),
  );
  const [, options = ""] = /pusher\/cli(.*)/.exec(command) ?? [];
  assert(command.includes("--allow-net --allow-env jsr:"), command);
  const flags = options.replace(/--port \d+/, "").split(" ").filter(Boolean);
  const permissions = ["run", "--no-prompt", "--allow-net", "--allow-env"];
  const reading = more.length > 0 ? ["--allow-read"] : [];
  const program = [...permissions, ...reading, "cli.ts"];
  return start([...program, ...LOCAL, ...flags, ...more], env);
}

/** The value of an expression of the guide, for a server on this port. */
function evaluate(
  code: string,
  name: string,
  scope: Record<string, unknown>,
  port: string,
): unknown {
  const own = code.replaceAll(/(?<=[pP]ort: "?)(?:6001|8080)/g, port);
  assert(own !== code, "the guide names a port");
  return new Function(...Object.keys(scope), `${own}; return ${name};`)(
    ...Object.values(scope),
  );
}

/** The official SDK, with the lines that a diff adds. */
function sdkOf(diff: string, port: string): StockServerSdk {
  const after = diff.replaceAll(/^-.*\n/gm, "").replaceAll(/^[+ ]/gm, "");
  assert(diff.includes('-  cluster: "eu"') && !after.includes("cluster"));
  const scope = { Pusher: StockServerSdk };
  return evaluate(after, "pusher", scope, port) as StockServerSdk;
}

/** The official SDK for an app. */
const sdk = (
  port: string,
  appId = "1",
  key = "app-key",
  secret = "app-secret",
) =>
  new StockServerSdk({
    ...{ appId, key, secret, port },
    ...{ host: "127.0.0.1", useTLS: false },
  });

/** What a client of Pusher has, as far as it matters here. */
interface Client {
  subscribe(name: string): {
    bind(event: string, handler: (data: unknown) => void): void;
  };
  disconnect(): void;
}

/** Publishes with an SDK what a client then gets. */
async function carry(client: Client, backend: StockServerSdk): Promise<void> {
  const { promise: joined, resolve } = Promise.withResolvers<unknown>();
  const { promise: got, resolve: get } = Promise.withResolvers<unknown>();
  try {
    const channel = client.subscribe("news");
    channel.bind("pusher:subscription_succeeded", resolve);
    channel.bind("create", get);
    await within(20_000, "subscription", joined);
    const answer = await backend.trigger("news", "create", { text: "hello" });
    assertEquals(await answer.json(), {});
    assertEquals(await within(20_000, "event", got), { text: "hello" });
  } finally {
    client.disconnect();
  }
}

Deno.test("docs/migrating.md: from Pusher, with pusher-js and the official SDK", async () => {
  await using server = await startAs(FROM_PUSHER);
  const { port } = new URL(server.url);
  const [diff = ""] = snippets(FROM_PUSHER, "diff");
  const [page = ""] = snippets(FROM_PUSHER, "js ignore");
  const scope = { Pusher: PusherJs };
  const client = evaluate(page, "pusher", scope, port) as Client;
  await carry(client, sdkOf(diff, port));
});

Deno.test("docs/migrating.md: from soketi, one app and several", async () => {
  const client = (port: string, key: string) =>
    new PusherJs(key, {
      ...{ cluster: "", wsHost: "127.0.0.1", wsPort: Number(port) },
      ...{ forceTLS: false, enabledTransports: ["ws"] },
    });
  {
    await using server = await startAs(FROM_SOKETI);
    const { port } = new URL(server.url);
    await carry(client(port, "app-key"), sdk(port, "app-id"));
  }
  const [before = "", after = ""] = snippets(FROM_SOKETI, "json");
  const { "appManager.array.apps": [old] } = JSON.parse(before);
  const [app] = JSON.parse(after);
  assertEquals(
    [app.id, app.key, app.secret, app.clientEvents, app.limits],
    [old.id, old.key, old.secret, old.enableClientMessages, {
      connections: old.maxConnections,
      clientEventsPerSecond: old.maxClientEventsPerSecond,
    }],
  );
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const other = { ...app, id: "2", key: "k2", secret: "s2" };
    await Deno.writeTextFile(file, JSON.stringify([app, other]));
    // The file has the apps, in place of the variables.
    const none =
      "```sh\ndeno run --allow-net --allow-env jsr:@glitz/pusher/cli\n```";
    await using server = await startAs(none, "--apps", file);
    const { port } = new URL(server.url);
    await carry(
      client(port, app.key),
      sdk(port, app.id, app.key, app.secret),
    );
    await carry(client(port, "k2"), sdk(port, "2", "k2", "s2"));
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("docs/migrating.md: from Reverb, with Laravel Echo", async () => {
  await using server = await startAs(FROM_REVERB);
  const { port } = new URL(server.url);
  const [page = ""] = snippets(FROM_REVERB, "js ignore");
  // In a page, Echo finds pusher-js as `window.Pusher`.
  class Echo extends LaravelEcho<"reverb"> {
    constructor(options: object) {
      // deno-lint-ignore no-explicit-any -- the types of Echo name another Pusher
      super({ ...options, Pusher: PusherJs } as any);
    }
  }
  const echo = evaluate(page, "echo", { Echo }, port) as Echo;
  const client = {
    subscribe: (name: string) => {
      const channel = echo.channel(name);
      return {
        bind: (event: string, handler: (data: unknown) => void) =>
          event.startsWith("pusher:")
            ? channel.subscribed(() => handler(null))
            : channel.listen(`.${event}`, handler),
      };
    },
    disconnect: () => echo.disconnect(),
  };
  await carry(client, sdk(port));
});

Deno.test({
  name:
    "docs/migrating.md: what it says to check holds for the server that it starts",
  ignore: !["bash", "curl", "openssl"].every((name) => findInstalled(name)),
  async fn() {
    await using server = await startAs(FROM_PUSHER);
    const { port } = new URL(server.url);
    const [, part = ""] = GUIDE.split("## Check it\n");
    const [commands = ""] = snippets(part, "sh");
    const local = commands.replaceAll(":6001", `:${port}`)
      .replace("localhost", "127.0.0.1");
    const [curl = "", conformance = "", publish = ""] = local.split("\n");
    const bash = findInstalled("bash")!;
    assertStringIncludes(await output(bash, "-c", curl), "200 OK");
    // The items that go by what is switched on; all of them take a minute.
    const [deno, run, ...args] = conformance.split(" ");
    assertEquals([deno, run], ["deno", "run"]);
    const more = ["--only", "1-6,53-57"];
    await output(Deno.execPath(), "run", "--no-lock", ...args, ...more);
    const env = `PUSHER_URL=http://127.0.0.1:${port}`;
    assertEquals(await output(bash, "-c", `${env} ${publish}`), "{}");
  },
});

/** Runs a program in the root of the repository; returns what it prints. */
async function output(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    cwd: new URL("..", import.meta.url),
  }).output();
  const [text = "", errors] = [stdout, stderr].map((bytes) =>
    new TextDecoder().decode(bytes).trim()
  );
  assertEquals(code, 0, `${text}\n${errors}`);
  return text;
}
