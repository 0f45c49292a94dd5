/**
 * What the tests of all examples share: the pages of examples, and requests to them.
 *
 * @module
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import axe from "axe-core";
import type { Page } from "puppeteer-core";
import { PLAIN_HOST, type Window } from "./browser.ts";

/** The items of the list of a page, as an expression of the page. */
const ITEMS =
  `[...document.querySelectorAll("li")].map((item) => item.textContent)`;

/** What the list of a page has now. */
export async function itemsOf({ page }: Window): Promise<string[]> {
  return await page.evaluate(ITEMS) as string[];
}

/** Waits until the list of a page has these items, or says how they differ. */
export async function lists(
  window: Window,
  expected: string[],
): Promise<void> {
  const wanted = JSON.stringify(JSON.stringify(expected));
  try {
    const isThere = `JSON.stringify(${ITEMS}) === ${wanted}`;
    await window.page.waitForFunction(isThere, { polling: "mutation" });
  } catch (error) {
    assertEquals(await itemsOf(window), expected, `${error}`);
  }
}

/** A form's text, sent as a program does without a page. */
export function post(
  url: URL | string,
  fields: Record<string, string>,
): Promise<Response> {
  const body = new URLSearchParams(fields);
  return fetch(url, { method: "POST", body, redirect: "manual" });
}

/**
 * Checks that an example answers HEAD, and refuses other methods and paths.
 *
 * @param paths The paths of the example, and the methods that it serves there.
 */
export async function checkMethods(
  url: string,
  paths: Record<string, string>,
): Promise<void> {
  const ask = async (path: string, init: RequestInit) => {
    const response = await fetch(new URL(path, url), init);
    const text = await response.text();
    return { status: response.status, headers: response.headers, text };
  };
  for (const [path, allow] of Object.entries(paths)) {
    for (const method of ["PUT", "DELETE"]) {
      const { status, headers } = await ask(path, { method });
      assertEquals([status, headers.get("allow")], [405, allow], path);
    }
    if (!allow.startsWith("GET")) continue;
    const head = await ask(path, { method: "HEAD" });
    assertEquals([head.status, head.text], [200, ""]);
    assertStringIncludes(head.headers.get("content-type")!, "text/html");
  }
  for (const method of ["GET", "POST"]) {
    const { status } = await ask("missing", { method });
    assertEquals(status, 404);
  }
}

/**
 * Checks that a page fits its window, names its parts, and is fit for screen readers
 * and the keyboard, as far as a program can find that out.
 */
export async function checkParts(page: Page): Promise<void> {
  const parts = `{
    lang: document.documentElement.lang,
    viewport: document.querySelector("[name=viewport]")?.content,
    schemes: document.querySelector("[name=color-scheme]")?.content,
    titles: [document.title, document.querySelector("h1").textContent].every(Boolean),
    unnamed: [...document.querySelectorAll("input, button")].filter((part) =>
      !part.labels[0]?.textContent.trim() && !part.textContent.trim()
    ).length,
    // What changes, for a user who cannot see it.
    announced: document.querySelector("[role=status], [role=alert]") !== null,
    fits: document.documentElement.scrollWidth <= innerWidth,
  }`;
  assertEquals(await page.evaluate(`(${parts})`), {
    lang: "en",
    viewport: "width=device-width",
    schemes: "light dark",
    titles: true,
    unnamed: 0,
    announced: true,
    fits: true,
  });
  await page.evaluate(`${axe.source}; undefined`);
  const faults = `axe.run().then(({ violations }) => violations.map(
    ({ help, nodes }) => help + ": " + nodes.map(({ html }) => html).join(" "),
  ))`;
  assertEquals(await page.evaluate(faults), []);
}

/** The address of an example without TLS, on a phone: no secure context. */
export function plainUrl(url: string): string {
  return `http://${PLAIN_HOST}:${new URL(url).port}/`;
}
