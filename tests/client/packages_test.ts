/**
 * Packages made for pusher-js see the same with the served client as with stock
 * pusher-js: each program of `packages_page.ts` runs in a page with both, against
 * our own server.
 */
import { Pusher } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import webBuild from "npm:pusher-js@8.6.0/dist/web/pusher.js" with {
  type: "text",
};
import { BROWSERS, browserTest, openPage } from "../support/browser.ts";

/** Two programs and the loading of their page, on a busy machine. */
const PROGRAM_DEADLINE_MS = 60_000;

/** The names of the programs: a name that is missing in the page fails. */
const PROGRAMS = [
  "laravel-echo 1, handed an instance",
  "laravel-echo 1, with the page's class",
  "laravel-echo 2, handed an instance",
  "laravel-echo 2, with the page's class",
  "@laravel/echo-react",
  "@laravel/echo-vue",
  "@harelpls/use-pusher",
  "react-pusher",
  "a program with an authorizer",
  "a program that looks inside",
  "a program that notes all events",
];

/**
 * A module of the programs and of use-pusher. That package is imported here alone,
 * because it brings along the types of an old Node.js, which do not fit ours.
 */
const ENTRY = `
import * as usePusher from "npm:@harelpls/use-pusher@7.2.1";
import "${new URL("packages_page.ts", import.meta.url)}";
globalThis.packages = { usePusher };
`;

let bundle: Promise<string> | undefined;

/** The programs and their packages as one module, made once for all tests. */
async function bundlePrograms(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "packages_" });
  try {
    await Deno.writeTextFile(`${folder}/entry.ts`, ENTRY);
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["bundle", "--no-config", "--no-lock", "--platform", "browser"],
        // A quarter of the size, for each of the pages to read.
        ...["--minify", "--format", "esm", `${folder}/entry.ts`],
      ],
      stdout: "piped",
      stderr: "piped",
    });
    const { success, stdout, stderr } = await child.output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Our server, with pages for both clients. The header `x-user` names the user. */
class Server implements AsyncDisposable {
  readonly pusher = new Pusher({
    key: "app-key",
    clientEvents: true,
    authorize(request, { channel }) {
      const user = request.headers.get("x-user");
      if (!user || channel === "private-refused") return false;
      const info = { name: user.toUpperCase() };
      return channel.startsWith("presence-")
        ? { user_id: user, user_info: info }
        : true;
    },
  });
  readonly #programs: string;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor(programs: string) {
    this.#programs = programs;
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      Pusher.cascade(this.pusher.handler, (request) => this.#serve(request)),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}`;
  }

  async #serve(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const page = (script: string) =>
      `<!doctype html><body><script src="${script}"></script>
       <script>var Client = Pusher, process = { env: {} };</script>
       <script type="module" src="/programs.js"></script>`;
    const scripts: Record<string, string> = {
      "/stock.js": webBuild,
      "/programs.js": this.#programs,
    };
    const pages: Record<string, string> = {
      "/stock": page("/stock.js"),
      "/served": page("/pusher.js"),
    };
    if (pathname === "/publish") {
      const [channel, event, data] = await request.json();
      this.pusher.trigger(channel, event, data);
      return new Response();
    }
    if (pathname in scripts) {
      const headers = { "content-type": "text/javascript" };
      return new Response(scripts[pathname], { headers });
    }
    const headers = { "content-type": "text/html" };
    const status = pathname in pages ? 200 : 404;
    return new Response(pages[pathname] ?? "", { headers, status });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
    await this.#http.shutdown();
  }
}

for (const program of PROGRAMS) {
  browserTest(`${program} sees the same as with pusher-js`, async (browser) => {
    await using server = new Server(await (bundle ??= bundlePrograms()));
    const seen: Record<string, unknown[]> = {};
    for (const client of ["stock", "served"]) {
      const { page } = await openPage(browser, `${server.url}/${client}`);
      page.setDefaultTimeout(PROGRAM_DEADLINE_MS);
      // Only pusher-js has this method.
      const isStock = await page.evaluate(
        `"switchCluster" in Pusher.prototype`,
      );
      assertEquals(isStock, client === "stock");
      const run = `programs[${JSON.stringify(program)}]()`;
      seen[client] = await page.evaluate(run) as unknown[];
      await page.close();
    }
    assertEquals(seen.served, seen.stock);
  }, BROWSERS);
}
