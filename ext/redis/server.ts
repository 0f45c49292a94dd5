/**
 * What a server says about itself, and whether it will do.
 *
 * @module
 */

import { Fault } from "./failures.ts";

/** What a server has to be: a master that stands alone, or a node of a cluster. */
export type ServerKind = "master" | "node";

/** The first version with sharded pub/sub. Valkey counts on from there. */
const MIN_VERSION = 7;

/** The fields that `INFO` lists. */
export function parseInfo(answer: unknown): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of String(answer).split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return fields;
}

/**
 * Throws if a server will not do.
 *
 * @param isStrict Whether settings that would lose data later are refused. They are
 * when a program starts, and its operator looks; later it is better to go on.
 */
export function checkServer(
  info: ReadonlyMap<string, string>,
  kind: ServerKind,
  isStrict: boolean,
): void {
  const version = info.get("redis_version") ?? "";
  if (!(Number.parseInt(version) >= MIN_VERSION)) {
    throw new Fault(
      version === ""
        ? "what answers there is not Redis: correct host and port"
        : `its version is ${version}: use Redis ${MIN_VERSION} or later, or Valkey`,
      { isLasting: true },
    );
  }
  // Valkey has another name for it.
  const mode = info.get("redis_mode") ?? info.get("server_mode");
  checkMode(mode ?? "standalone", kind);
  if (info.get("loading") === "1") {
    throw new Fault("it is still loading its data: wait until it has");
  }
  // Which nodes are masters is what the cluster itself says.
  if (kind === "master" && (info.get("role") ?? "master") !== "master") {
    throw new Fault("it is a read-only replica: connect to its master", {
      isLasting: true,
    });
  }
  if (isStrict) checkEviction(info);
}

function checkMode(mode: string, kind: ServerKind): void {
  if (mode === (kind === "node" ? "cluster" : "standalone")) return;
  throw new Fault(
    mode === "cluster"
      ? "it is a node of a cluster: begin the URL with redis+cluster://"
      : mode === "sentinel"
      ? "it is a Sentinel: begin the URL with redis+sentinel://, and end it with the " +
        "name of the master"
      : "it is no node of a cluster: begin the URL with redis://",
    { isLasting: true },
  );
}

/**
 * Every other policy throws keys away when memory is short, one by one: then members
 * stay for ever, or the history of a channel does not fit its counter. With
 * `noeviction` Redis refuses to write instead, which everybody notices.
 */
function checkEviction(info: ReadonlyMap<string, string>): void {
  const policy = info.get("maxmemory_policy") ?? "noeviction";
  const limit = info.get("maxmemory") ?? "0";
  if (limit === "0" || policy === "noeviction") return;
  throw new Fault(
    `its maxmemory-policy is ${policy}, which would throw away parts of what belongs ` +
      "together: set it to noeviction",
  );
}
