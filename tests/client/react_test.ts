/**
 * The hooks of `@glitz/pusher/react` in real pages: a Vite project with our package
 * as JSR makes it for npm, with React 18 and with React 19. The components are in
 * `react_page.tsx`.
 */
import { Pusher } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { openPage } from "../support/browser.ts";
import { Project, viteTest } from "../support/vite.ts";

/** The last version of each major version that the hooks work with. */
const VERSIONS = ["18.3.1", "19.3.1"];

/** All cases one after the other, on a busy machine. */
const PAGE_DEADLINE_MS = 60_000;

const PAGE = await Deno.readTextFile(
  new URL("react_page.tsx", import.meta.url),
);

/** The page as a Vite project has it: there the packages need no prefix. */
const FILES = {
  "index.html":
    `<!doctype html><body><script type="module" src="/page.tsx"></script>`,
  "page.tsx": PAGE
    .replace(/^\/\*\* @jsx.*\n/gm, "")
    .replace(/"npm:(react(?:-dom)?)@[\d.]+/g, `"$1`),
  "vite.config.js": `import react from "@vitejs/plugin-react";
    export default { plugins: [react()] };`,
};

const ONCE = ["subscribe", "unsubscribe"];

/** What the cases of the page see. */
const EXPECTED = {
  "two components share a channel": [
    ["a1", "b1", "b2", "b3", "a3"],
    ["subscribe"],
    ONCE,
  ],
  "code outside React shares a channel with a component": [
    ["own1", "1", "own2", "3"],
    ONCE,
    ONCE,
  ],
  "strict mode mounts twice, and subscribes once": [
    2,
    ["hi"],
    1,
    ["subscribe"],
  ],
  "the name of a channel changes": [["1", "3"], ONCE, ONCE],
  "the handler of the last render is called": [
    ["a1", "b2", "d3"],
    ["subscribe"],
  ],
  "members come and go": [
    ["b 2 ANN,BOB ANN"],
    ["subscribe", "subscribe", "unsubscribe"],
  ],
  "private channels are authorized or refused": [403, "hi"],
  "a refusal is shown, and gone with the next name": [
    ...["none", "pending", "refused 403"],
    ...["pending", "subscribed", "pending", "subscribed"],
  ],
  "the state follows a reconnect": ["connected", "connecting", "connected"],
  "nothing is lost over reconnects": [
    "1,a0,a1,a2,a3,a4,b0,b1,b2,b3,b4,2",
    "1,a0,a1,a2,a3,a4,b0,b1,b2,b3,b4,2",
  ],
  "a page from the server opens no socket there, and hydrates": [
    "initialized  0 undefined",
    0,
    [],
  ],
  "a provider disconnects only a client that it has made": [
    ["connected"],
    ["disconnected"],
    "connected",
  ],
  "events of the client itself": ["one", "two"],
  "without a client a hook throws":
    "TypeError: Cannot use a hook of pusherHooks: there is no client; wrap the component in PusherProvider, or pass a client to pusherHooks",
};

/** Our server, with the files of a built project. */
class Site implements AsyncDisposable {
  readonly pusher = new Pusher({
    key: "app-key",
    authorize(request, { channel }) {
      const user = request.headers.get("x-user");
      if (!user || channel === "private-refused") return false;
      const info = { name: user.toUpperCase() };
      return channel.startsWith("presence-")
        ? { user_id: user, user_info: info }
        : true;
    },
  });
  readonly #folder: string;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor(folder: string) {
    this.#folder = folder;
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      Pusher.cascade(this.pusher.handler, (request) => this.#serve(request)),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  async #serve(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/publish") {
      const [channel, event, data] = await request.json();
      this.pusher.trigger(channel, event, data);
      return new Response();
    }
    const name = pathname === "/" ? "/index.html" : pathname;
    const type = name.endsWith(".js") ? "text/javascript" : "text/html";
    try {
      const file = await Deno.readFile(this.#folder + name);
      return new Response(file, { headers: { "content-type": type } });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      return new Response("not found", { status: 404 });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
    await this.#http.shutdown();
  }
}

for (const version of VERSIONS) {
  viteTest(
    `the hooks with React ${version} in a Vite project, in all their uses`,
    async (browser) => {
      await using project = await Project.make(version, FILES);
      assertEquals(await project.versionsOf("react"), [version]);
      await project.build();
      await using site = new Site(`${project.folder}/dist`);
      const { page, errors } = await openPage(browser, site.url);
      page.setDefaultTimeout(PAGE_DEADLINE_MS);
      const seen = await page.evaluate("run()");
      const complaints: string[] = [];
      assertEquals(seen, { version, complaints, results: EXPECTED });
      assertEquals(errors, []);
      await page.close();
    },
  );
}
