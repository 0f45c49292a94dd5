/**
 * Pages over plain http from another machine, such as a phone that opens a private
 * address: there browsers hide all that needs a secure context. Whatever the server
 * serves to browsers, and whatever the documents show, has to run there.
 */
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { assert, assertArrayIncludes, assertEquals } from "@std/assert";
import webBuild from "npm:pusher-js@8.6.0/dist/web/pusher.js" with {
  type: "text",
};
import {
  handler as compose,
  pusher as composePusher,
} from "../examples/compose.ts";
import {
  BROWSERS,
  browserTest,
  openPage,
  PLAIN_HOST,
} from "./support/browser.ts";
import { readNames } from "./support/browser_needs.ts";
import { start } from "./support/program.ts";

const ROOT = new URL("../", import.meta.url);

/** Where documents load that build from. */
const STOCK_URL = /https:\/\/js\.pusher\.com\/[\d.]+\/pusher\.min\.js/;

const EXAMPLES = ["chat", "presence", "history", "typed"];

const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));

// ---- Documents --------------------------------------------------------------

/** A piece of browser code in a document. */
interface Snippet {
  where: string;
  page: string;
}

/** The documents, and the comments of all files whose exports are public. */
async function documents(): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  for (const folder of ["", "core/", "client/", "ext/", "docs/"]) {
    for (const path of filesOf(folder)) {
      const text = await read(path);
      const comments = text.match(/^ *(\/\*\*|\*|\/\/).*$/gm)?.join("\n") ?? "";
      texts.set(path, path.endsWith(".md") ? text : comments);
    }
  }
  return texts;
}

function filesOf(folder: string): string[] {
  try {
    return [...Deno.readDirSync(new URL(`./${folder}`, ROOT))]
      .filter(({ name }) => /\.(md|ts|tsx)$/.test(name))
      .filter(({ name }) => !name.includes("_test."))
      .map(({ name }) => folder + name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** The pages of the code blocks for browsers, with the client that they use. */
async function snippets(): Promise<Snippet[]> {
  const found: Snippet[] = [];
  for (const [document, text] of await documents()) {
    for (const [, language, block = ""] of text.matchAll(BLOCK)) {
      const code = block.replace(/^ *\* ?/gm, "");
      if (OF_PROJECT.test(code)) continue;
      const where = `${document}: ${code.slice(0, 60)}`;
      const isPage = language === "html";
      const isStock = STOCK_URL.test(code) || /new Pusher\(/.test(code);
      const client = isPage && /src="\/pusher\.js"/.test(code)
        ? ""
        : `<script src="${isStock ? "/stock.js" : "/pusher.js"}"></script>`;
      const body = isPage
        ? code.replace(STOCK_URL, "/stock.js")
        : `<script>${code}</script>`;
      found.push({ where, page: `<!doctype html>${client}${body}` });
    }
  }
  return found;
}

const BLOCK = /^(?: *\* )?```(html|js)\b.*\n([^]*?)^(?: *\* )?```/gm;

/** Code of a project with other packages, such as Laravel Echo or React, or of a test. */
const OF_PROJECT = /^import |\bEcho\b|src="\/src\/|\btest\./m;

/** The code in the scripts of a page. */
function scriptsIn(page: string): string[] {
  return Array.from(
    page.matchAll(/<script[^>]*>([^]*?)<\/script>/g),
    ([, code = ""]) => code,
  );
}

// ---- Names ------------------------------------------------------------------

/** The names of all globals and of all members of all interfaces of a browser. */
const LIST_NAMES = `(() => {
  const names = new Set();
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    names.add(name);
    const value = Object.getOwnPropertyDescriptor(globalThis, name).value;
    for (const holder of [value, value?.prototype]) {
      if (typeof value !== "function" || !holder) continue;
      for (const member of Object.getOwnPropertyNames(holder)) names.add(member);
    }
  }
  return [...names];
})()`;

browserTest(
  "no served script and no document uses what needs a secure context",
  async (browser) => {
    await using site = await Site.open();
    const names = async (host: string) => {
      const { page } = await openPage(browser, `http://${host}:${site.port}/`);
      const list = await page.evaluate(LIST_NAMES) as string[];
      const isSecure = await page.evaluate("isSecureContext");
      assertEquals(isSecure, host !== PLAIN_HOST);
      return list;
    };
    const plain = new Set(await names(PLAIN_HOST));
    const secure = (await names("127.0.0.1")).filter((name) =>
      !plain.has(name)
    );
    assertArrayIncludes(secure, ["randomUUID", "subtle", "serviceWorker"]);

    const scripts = new Map<string, string>();
    for (const path of ["pusher.js", "pusher.mjs", "pusher-fallback.mjs"]) {
      const response = await fetch(`http://127.0.0.1:${site.port}/${path}`);
      scripts.set(path, await response.text());
    }
    for (const { where, page } of site.snippets) {
      scripts.set(where, scriptsIn(page).join(";"));
    }
    for (const [where, script] of scripts) {
      const read = readNames(script);
      assertEquals(secure.filter((name) => read.has(name)), [], where);
    }
    const inText = new RegExp(
      `\\b(?:crypto|navigator|globalThis|window|self)\\??\\.(?:${
        secure.join("|")
      })\\b`,
    );
    for (const [document, text] of await documents()) {
      assertEquals(inText.exec(text)?.[0], undefined, document);
    }
  },
);

// ---- Pages ------------------------------------------------------------------

/** A server of the pages above, that lets every client do what it asks for. */
class Site implements AsyncDisposable {
  readonly snippets: Snippet[];
  readonly #pusher = new Pusher({
    key: "app-key",
    authorize: () => ({ user_id: "ann", user_info: { name: "Ann" } }),
    authenticate: () => ({ id: "ann" }),
  });
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  private constructor(snippets: Snippet[]) {
    this.snippets = snippets;
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      Pusher.cascade(
        this.#pusher.handler,
        fallback(this.#pusher),
        (request) => this.#servePage(request),
      ),
    );
  }

  static async open(): Promise<Site> {
    return new Site(await snippets());
  }

  get port(): number {
    return this.#http.addr.port;
  }

  #servePage(request: Request): Response {
    const { pathname } = new URL(request.url);
    const isScript = pathname === "/stock.js";
    const page = this.snippets[Number(pathname.slice(1))]?.page ?? "";
    const type = isScript ? "text/javascript" : "text/html";
    const headers = { "content-type": type };
    return new Response(isScript ? webBuild : page, { headers });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pusher.close();
    await this.#http.shutdown();
  }
}

/** Whether every client of a page is connected, with all of its channels. */
const ALL_JOINED = `Pusher.instances.length > 0 &&
  Pusher.instances.every(({ connection, channels, allChannels }) =>
    connection.state === "connected") &&
  Pusher.instances.flatMap((pusher) => pusher.allChannels())
    .every(({ subscribed }) => subscribed)`;

browserTest(
  "browser code of the documents connects on a page without a secure context",
  async (browser) => {
    await using site = await Site.open();
    assert(site.snippets.length > 0);
    for (const [index, { where }] of site.snippets.entries()) {
      const url = `http://${PLAIN_HOST}:${site.port}/${index}`;
      const window = await openPage(browser, url);
      const { page, errors } = window;
      assertEquals(errors, [], where);
      assertEquals(await page.evaluate("isSecureContext"), false);
      await page.waitForFunction(ALL_JOINED).catch((cause) => {
        throw new Error(`Does not connect: ${where}`, { cause });
      });
      assertEquals(errors, [], where);
      await page.close();
    }
  },
  BROWSERS,
);

browserTest(
  "the pages of examples/ connect without a secure context",
  async (browser) => {
    const visit = async (port: string | number) => {
      const window = await openPage(browser, `http://${PLAIN_HOST}:${port}/`);
      const { page, errors } = window;
      assertEquals(await page.evaluate("isSecureContext"), false);
      // The first page of one example asks for a name.
      if (await page.$("form[method=post]") !== null) {
        await page.type("[name=name]", "Ann");
        await page.keyboard.press("Enter");
      }
      await page.waitForFunction(`globalThis.Pusher && ${ALL_JOINED}`);
      assertEquals(errors, []);
      await page.close();
    };
    for (const name of EXAMPLES) {
      const args = ["--allow-net", `examples/${name}.ts`, "--port", "0"];
      const ready = / on http:\/\/localhost:(\d+)\/\n/;
      await using program = await start(["run", "--no-prompt", ...args], ready);
      await visit(program.ready[1]!);
    }
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      compose,
    );
    await visit(server.addr.port);
    await composePusher.close();
    await server.shutdown();
  },
);
