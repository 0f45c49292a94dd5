/**
 * Warnings of options that are allowed, and that few programs want.
 *
 * @module
 */

import { compileOrigins, type OriginRule, type OriginVerdict } from "./http.ts";
import type { PusherOptions } from "./options.ts";

/**
 * Sites that no program means: a rule that accepts one of them is a pattern for every
 * site, a wildcard such as `*.com`, or one for a host at which anybody gets a name.
 */
const STRANGERS = [
  ...["example", "com", "net", "org", "io", "app", "dev"],
  ...["deno.dev", "github.io", "herokuapp.com", "netlify.app", "pages.dev"],
  ...["vercel.app", "workers.dev"],
].flatMap((domain) =>
  ["https", "http"].map((scheme) => `${scheme}://a-site-of-nobody.${domain}`)
);

/**
 * What is not safe about options that have been checked, in a line each, with what
 * to do. A function in `origins` is not asked: it may have effects.
 */
export function warningsOf(
  { authorize, authenticate, origins }: PusherOptions,
): string[] {
  if (origins === undefined) return [];
  const asked = [
    ...authorize === undefined ? [] : ["authorize"],
    ...authenticate === undefined ? [] : ["authenticate"],
  ].join(" and ");
  const verdicts = asked === "" ? new Map() : judgeStrangers([origins].flat());
  if (verdicts.size === 0) return [];
  if (!verdicts.has("listed")) {
    return [
      `origins has "*", so pages of any site may call ${asked}, without ` +
      "cookies: list the origins of your pages instead, unless the request " +
      "has to carry a token",
    ];
  }
  return [
    `origins accepts pages of strangers, such as ${verdicts.get("listed")}, ` +
    `which may call ${asked} with the cookies of your users: list the origins ` +
    "of your pages instead",
  ];
}

/** How sites that nobody knows are judged: each verdict, and one of these sites. */
function judgeStrangers(rules: OriginRule[]): Map<OriginVerdict, string> {
  const check = compileOrigins(
    rules.filter((rule) => typeof rule !== "function"),
  );
  const verdicts = new Map<OriginVerdict, string>();
  for (const origin of STRANGERS) {
    const headers = { origin, host: "localhost" };
    const verdict = check(new Request("http://localhost/", { headers }));
    if (verdict !== false && !verdicts.has(verdict)) {
      verdicts.set(verdict, origin);
    }
  }
  return verdicts;
}

/** What has been said: a program that makes many servers reads it once. */
const said = new Set<string>();

/** Prints the warnings of options, each once. */
export function warnOf(options: PusherOptions): void {
  for (const warning of warningsOf(options)) {
    if (said.has(warning)) continue;
    said.add(warning);
    console.warn(`Pusher: ${warning}`);
  }
}
