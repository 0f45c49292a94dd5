/**
 * The client in a project with webpack, as JSR makes it for npm: in a page, in a worker,
 * and with the part that it loads when it is needed. `support/vite.ts` is for Vite.
 */
import { Pusher } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { openPage } from "./support/browser.ts";
import { findInstalled } from "./support/installed.ts";
import { NpmProject } from "./support/npm_package.ts";
import { viteTest } from "./support/vite.ts";

const WEBPACK = "webpack@5.113.0";

/** Signs in, for which the client loads its lazy part, and says what it gets. */
const CLIENT = `
import { Pusher } from "@glitz/pusher/client";

export function follow(say) {
  const pusher = new Pusher("app-key", { url: location.origin });
  pusher.user.bind("hello", ({ text }) => say("user " + text));
  pusher.signin();
  pusher.user.signinDonePromise.then(() => say("signed in"));
  pusher.subscribe("news").bind("create", ({ text }) => say("news " + text));
}
`;

const FILES: Record<string, string> = {
  "follow.js": CLIENT,
  "worker.js": `import { follow } from "./follow.js";
    follow((text) => postMessage("worker: " + text));`,
  "page.js": `import { follow } from "./follow.js";
    const say = (text) => {
      document.body.append(text, document.createElement("br"));
    };
    follow((text) => say("page: " + text));
    const worker = new Worker(new URL("./worker.js", import.meta.url));
    worker.onmessage = ({ data }) => say(data);`,
};

/** Bundles the page into the folder \`out\`; its arguments are webpack and the folder. */
const BUILD = `
const [tools, folder] = process.argv.slice(2);
const { default: webpack } = await import(tools + "/lib/index.js");
const options = {
  mode: "production",
  context: folder,
  entry: "./page.js",
  output: { path: folder + "/out", filename: "page.js" },
};
webpack(options, (error, stats) => {
  if (error === null && !stats.hasErrors() && !stats.hasWarnings()) return;
  console.error(error ?? stats.toString());
  process.exitCode = 1;
});
`;

/** Installs webpack in a folder of its own; returns its path. */
async function installWebpack(folder: string): Promise<string> {
  const { success, stderr } = await new Deno.Command(findInstalled("npm")!, {
    args: [
      ...["install", WEBPACK, "--prefix", folder, "--ignore-scripts"],
      ...["--no-audit", "--no-fund", "--prefer-offline"],
    ],
    stdin: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return `${folder}/node_modules/webpack`;
}

viteTest(
  "webpack bundles the client for a page and a worker, with the part that is loaded when needed",
  async (browser) => {
    await using project = await NpmProject.make();
    const { folder } = project;
    for (const [name, text] of Object.entries(FILES)) {
      await Deno.writeTextFile(`${folder}/${name}`, text);
    }
    const webpack = await installWebpack(`${folder}/tools`);
    const node = findInstalled("node")!;
    const { code, text } = await project.run(node, BUILD, [webpack, folder]);
    assertEquals(code, 0, text);

    await using pusher = new Pusher({
      key: "app-key",
      authenticate: () => ({ id: "ann" }),
    });
    let subscribers = 0;
    pusher.on("subscribed", async ({ channel }) => {
      if (channel !== "news" || ++subscribers < 2) return;
      await pusher.trigger("news", "create", { text: "hello" });
    });
    await using server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      pusher.cascade(pusher.handler, async (request) => {
        const { pathname } = new URL(request.url);
        if (pathname === "/") {
          const page = `<!doctype html><body><script src="/page.js"></script>`;
          return new Response(page, {
            headers: { "content-type": "text/html" },
          });
        }
        const file = await Deno.readTextFile(`${folder}/out${pathname}`)
          .catch(() => null);
        return file === null
          ? new Response(null, { status: 404 })
          : new Response(file, {
            headers: { "content-type": "text/javascript" },
          });
      }),
    );
    const url = `http://127.0.0.1:${server.addr.port}/`;
    const window = await openPage(browser, url);
    for (const place of ["page", "worker"]) {
      await window.shows(`${place}: news hello`);
    }
    for (const place of ["page", "worker"]) {
      await window.shows(`${place}: signed in`);
    }
    await pusher.sendToUser("ann", "hello", { text: "hello" });
    for (const place of ["page", "worker"]) {
      await window.shows(`${place}: user hello`);
    }
    assertEquals(window.errors, []);
  },
);
