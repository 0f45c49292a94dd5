/**
 * The recipe for several servers, `docs/scaling.md`, against the standalone server:
 * flags, variables, ports, routes and deadlines of its files, and what it quotes.
 */
import { assert, assertEquals } from "@std/assert";
import { FLAGS } from "../cli/flags.ts";
import { findInstalled } from "./support/installed.ts";
import {
  blocks,
  commandLines,
  DOCUMENT,
  flagsOf,
  readCompose,
  readContainer,
  readManifest,
  readRecipe,
  RECIPE_PORTS,
  startNginx,
} from "./support/recipe.ts";

/** What the folder has; the document has to name each of them. */
const FILES = Array.from(
  Deno.readDirSync(new URL("../docs/scaling", import.meta.url)),
  ({ name }) => name,
).sort();

// ---- The files --------------------------------------------------------------

Deno.test("docs/scaling.md has a link to every file of docs/scaling", () => {
  const links = DOCUMENT.matchAll(/\]\(scaling\/([^)]+)\)/g);
  const linked = Array.from(links, ([, file = ""]) => file);
  assertEquals([...new Set(linked)].sort(), FILES);
});

/** The servers of the compose file. */
const SERVICES = ["pusher-1", "pusher-2", "pusher-3"];

/** The value of a flag, given in one word or in two. */
function valueOf(flags: readonly string[], name: string): string | undefined {
  const index = flags.findIndex((flag) => flag.split("=")[0] === `--${name}`);
  const [, value] = flags[index]?.split("=") ?? [];
  return value ?? flags[index + 1];
}

Deno.test("docs/scaling starts servers with flags and variables that cli.ts has", () => {
  const variables = Object.values(FLAGS).flatMap((flag) =>
    "variable" in flag ? [flag.variable as string] : []
  );
  const lines = commandLines();
  assertEquals(lines.map(({ file }) => file), [
    "pusher@.service",
    "Dockerfile",
    "kubernetes.yaml",
  ]);
  for (const line of lines) {
    const { file, args } = line;
    assertEquals(args[0], "run", file);
    assert(args.includes("--no-prompt"), file);
    const names = flagsOf(line).filter((word) => word.startsWith("--"));
    assert(names.length >= 2, file);
    for (const name of names) {
      assert(name.slice(2).split("=")[0]! in FLAGS, `${file}: ${name}`);
    }
  }
  for (const file of FILES) {
    for (
      const [variable] of readRecipe(file).matchAll(/\bPUSHER_[A-Z_]*[A-Z]\b/g)
    ) {
      assert(variables.includes(variable), `${file}: ${variable}`);
    }
  }
});

Deno.test("docs/scaling uses one port from the image to the probes", () => {
  const [unit, image, pod] = commandLines().map((line) =>
    valueOf(flagsOf(line), "port")
  );
  assertEquals(unit, "%i");
  const { ports, readinessProbe, livenessProbe } = readContainer();
  const [exposed] = ports;
  const port = String(exposed?.containerPort);
  assertEquals([image, pod], [port, port]);
  assertEquals(/^EXPOSE (\d+)$/m.exec(readRecipe("Dockerfile"))?.[1], port);
  const service = readManifest().get("Service");
  assertEquals(service.spec.ports[0].targetPort, exposed?.name);
  for (const { httpGet } of [readinessProbe, livenessProbe]) {
    assertEquals(httpGet.port, exposed?.name);
  }
  const { services } = readCompose();
  for (const name of SERVICES) {
    const check: string[] = services[name].healthcheck.test;
    assert(check.join(" ").includes(`127.0.0.1:${port}/readyz`), name);
    const { SERVERS } = services.caddy.environment;
    assert(SERVERS.split(" ").includes(`${name}:${port}`), name);
  }
  for (const file of ["nginx.conf", "Caddyfile"]) {
    for (const own of RECIPE_PORTS) {
      assert(readRecipe(file).includes(`127.0.0.1:${own}`), `${file}: ${own}`);
    }
  }
});

/** How long the process may take to end after the drain, see `cli.ts`. */
const SETTLE_SECONDS = 10;

Deno.test("docs/scaling waits for the end of a drain before it kills a server", () => {
  const [unit, image, pod] = commandLines().map((line) =>
    Number(valueOf(flagsOf(line), "drain")) + SETTLE_SECONDS
  );
  const [, stop] = /^TimeoutStopSec=(\d+)$/m.exec(
    readRecipe("pusher@.service"),
  ) ?? [];
  assert(Number(stop) >= unit!);
  const { services } = readCompose();
  for (const name of SERVICES) {
    assert(parseInt(services[name].stop_grace_period) >= image!);
  }
  const { template } = readManifest().get("Deployment").spec;
  const before = Number(readContainer().lifecycle.preStop.exec.command[1]);
  assert(before > 0);
  assert(template.spec.terminationGracePeriodSeconds >= before + pod!);
});

Deno.test("docs/scaling/kubernetes.yaml selects its own pods, and probes what answers", () => {
  const manifest = readManifest();
  assertEquals([...manifest.keys()], [
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
  ]);
  const { metadata, spec } = manifest.get("Deployment");
  const { labels } = spec.template.metadata;
  assertEquals(spec.selector.matchLabels, labels);
  assertEquals(manifest.get("Service").spec.selector, labels);
  assertEquals(
    manifest.get("PodDisruptionBudget").spec.selector.matchLabels,
    labels,
  );
  const { scaleTargetRef, metrics } =
    manifest.get("HorizontalPodAutoscaler").spec;
  assertEquals(scaleTargetRef.name, metadata.name);
  assert(DOCUMENT.includes(metrics[0].pods.metric.name));
  const { readinessProbe, livenessProbe } = readContainer();
  assertEquals(readinessProbe.httpGet.path, "/readyz");
  assertEquals(livenessProbe.httpGet.path, "/healthz");
});

Deno.test("docs/scaling/redis.conf gives the rights that ext/redis.ts lists, and no others", async () => {
  const file = new URL("../ext/redis.ts", import.meta.url);
  const [, listed = ""] = /ACL SETUSER pusher on >password ([^`]*)```/.exec(
    await Deno.readTextFile(file),
  ) ?? [];
  const [, given = ""] = /^user pusher on >change-me (.*)$/m.exec(
    readRecipe("redis.conf"),
  ) ?? [];
  const words = (text: string) =>
    [...new Set(text.replaceAll(/^ \*/gm, "").split(/\s+/))].filter(Boolean)
      .map((word) => word.replace("{prefix:", "{pusher:")).sort();
  assert(words(listed).length > 10);
  assertEquals(words(given), words(listed));
});

const BASH = findInstalled("bash");

/** Defines a test that needs a shell. */
function testWithBash(name: string, run: (bash: string) => Promise<void>) {
  if (BASH !== null) Deno.test(name, () => run(BASH));
  else Deno.test.ignore(`${name} (no bash)`, () => {});
}

testWithBash(
  "the commands of docs/scaling.md can be parsed, and name flags that cli.ts has",
  async (bash) => {
    const commands = blocks("sh");
    assert(commands.length >= 7);
    for (const text of commands) {
      const { success, stderr } = await new Deno.Command(bash, {
        args: ["-n", "-c", text],
      }).output();
      assert(success, new TextDecoder().decode(stderr));
      for (const [, flags = ""] of text.matchAll(/ cli\.ts (.*?)(?: &)?$/gm)) {
        for (const [flag] of flags.matchAll(/(?<=--)[\w-]+/g)) {
          assert(flag in FLAGS, flag);
        }
      }
    }
    const named = DOCUMENT.matchAll(/`--([\w-]+)[^`]*`/g);
    for (const [, flag = ""] of named) {
      assert(flag in FLAGS || DENO_FLAGS.includes(flag), flag);
    }
  },
);

/** Flags in the text that are those of Deno. */
const DENO_FLAGS = ["parallel"];

testWithBash(
  "the deploy of docs/scaling.md takes a server out of nginx, and puts it back",
  async (bash) => {
    const deploy = blocks("sh").find((text) => text.includes(" down;")) ?? "";
    const [out, back] = deploy.match(/^ *sed .*$/gm) ?? [];
    const file = await Deno.makeTempFile({ prefix: "nginx_" });
    try {
      const settings = readRecipe("nginx.conf");
      await Deno.writeTextFile(file, settings);
      for (const [command, marks] of [[out, 2], [back, 0]] as const) {
        const { success } = await new Deno.Command(bash, {
          args: ["-c", `conf=${file}; port=6002; ${command}`],
        }).output();
        assert(success);
        const marked = await Deno.readTextFile(file);
        const found = marked.match(/^ *server 127\.0\.0\.1:6002 .* down;$/gm) ??
          [];
        assertEquals(found.length, marks);
        if (marks === 0) assertEquals(marked, settings);
      }
    } finally {
      await Deno.remove(file);
    }
  },
);

const NGINX = findInstalled("nginx");

Deno.test({
  name: "nginx.conf takes localhost, beside the page that nginx has on Debian",
  ignore: NGINX === null,
  async fn() {
    const page = (port: number) =>
      `server { listen 127.0.0.1:${port} default_server; return 404; }`;
    await using proxy = await startNginx(NGINX!, RECIPE_PORTS, page);
    const answer = await fetch(`http://localhost:${proxy.port}/healthz`);
    await answer.body?.cancel();
    // No server is there.
    assertEquals(answer.status, 502);
  },
});

/** The text of all that may print something, or send it to a client. */
async function sources(): Promise<string> {
  const root = new URL("..", import.meta.url);
  const files = ["cli.ts", "mod.ts"];
  for (const folder of ["cli", "core", "ext", "ext/redis"]) {
    for await (const { name } of Deno.readDir(new URL(folder, root))) {
      if (/(?<!_test)\.ts$/.test(name)) files.push(`${folder}/${name}`);
    }
  }
  const texts = await Promise.all(
    files.map((file) => Deno.readTextFile(new URL(file, root))),
  );
  // Long texts stand in several lines.
  return texts.join("\n").replaceAll(/[`"] \+\s+[`"]/g, "");
}

/** Texts of other programs. */
const FOREIGN = [
  "worker_connections are not enough",
  "Cannot assign requested address",
  "flush_interval -1",
];

Deno.test("docs/scaling.md quotes what the servers print", async () => {
  const text = await sources();
  const [, table = ""] = DOCUMENT.split("## When something is wrong");
  const rows = table.match(/^\| .*\|$/gm) ?? [];
  const quoted = rows.flatMap((row) => {
    const [, symptom = ""] = row.split("|");
    return symptom.split("`").filter((part, i) => i % 2 && part.includes(" "));
  }).filter((quote) => !FOREIGN.includes(quote));
  assert(quoted.length >= 10);
  for (const quote of quoted) {
    // What stands before it is the name of the server.
    const fixed = quote.replace(/^is away: /, "");
    assert(text.includes(fixed), quote);
  }
});
