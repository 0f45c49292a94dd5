/**
 * URLs of Redis: one server, Sentinels, or Cluster; each with TLS or without.
 *
 * @module
 */

import type { Address, RedisCredentials } from "./client.ts";

/** What a URL says. */
export interface Location {
  /**
   * - `server`: the address is that of the server.
   * - `sentinel`: the addresses are Sentinels, which know where the master is.
   * - `cluster`: the addresses are some of the nodes, which know the others.
   */
  readonly kind: "server" | "sentinel" | "cluster";
  readonly addresses: readonly [Address, ...Address[]];
  /** The name by which the Sentinels know the master; "" elsewhere. */
  readonly masterName: string;
  readonly isSecure: boolean;
  readonly credentials: RedisCredentials;
}

const URL_PARTS =
  /^(redis|rediss)(?:\+(sentinel|cluster))?:\/\/(?:([^@/?#]*)@)?([^@/?#]+)(?:\/([^?#]*))?$/;

/** A name, an IPv4 address, or an IPv6 address in brackets; and a port. */
const HOST_AND_PORT = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?$/;

const DEFAULT_PORT = 6379;
const DEFAULT_SENTINEL_PORT = 26379;
const MAX_PORT = 65_535;

/** How the message of every error of this file begins. No message has the URL. */
const SUBJECT = "Cannot use the URL of Redis";

/**
 * Parses a URL.
 *
 * @throws {TypeError} If it is none of Redis. The message never has the password.
 */
export function parseLocation(url: string): Location {
  const [, scheme, kind = "server", login, hosts = "", path = ""] =
    URL_PARTS.exec(url) ?? [];
  if (scheme === undefined) {
    throw new TypeError(
      `${SUBJECT}: it must look like redis://user:password@host:6379, ` +
        "rediss:// with TLS, redis+sentinel://host:26379,host:26379/master-name " +
        "or redis+cluster://host:6379,host:6379, with reserved characters of user " +
        "and password percent-encoded",
    );
  }
  const isSentinel = kind === "sentinel";
  const port = isSentinel ? DEFAULT_SENTINEL_PORT : DEFAULT_PORT;
  const [first, ...others] = hosts.split(",").map((host) =>
    parseAddress(host, port)
  );
  if (first === undefined || (kind === "server" && others.length > 0)) {
    throw new TypeError(
      `${SUBJECT}: it has several hosts, and so must begin with redis+cluster:// ` +
        "or redis+sentinel://",
    );
  }
  return {
    // The pattern has no others.
    kind: kind as Location["kind"],
    addresses: [first, ...others],
    masterName: isSentinel ? parseMasterName(path) : checkDatabase(path),
    isSecure: scheme === "rediss",
    credentials: parseLogin(login),
  };
}

/** Host and port in one text. */
export function showAddress({ host, port }: Address): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

function parseAddress(text: string, defaultPort: number): Address {
  const [, ipv6, name, digits] = HOST_AND_PORT.exec(text) ?? [];
  const host = ipv6 ?? name;
  const port = digits === undefined ? defaultPort : Number(digits);
  if (host === undefined || port < 1 || port > MAX_PORT) {
    throw new TypeError(
      `${SUBJECT}: each host must be a name or an address, with a port from 1 to ` +
        `${MAX_PORT} if any`,
    );
  }
  return { host, port };
}

function parseMasterName(path: string): string {
  const name = decode(path, "the master's name");
  if (name !== "" && !name.includes("/")) return name;
  throw new TypeError(
    `${SUBJECT}: it must end with the name by which the Sentinels know the master, ` +
      "such as /mymaster",
  );
}

/**
 * Topics know no databases: two systems that differ in nothing else would hear each
 * other's messages.
 */
function checkDatabase(path: string): "" {
  if (path === "" || path === "0") return "";
  throw new TypeError(
    `${SUBJECT}: it names a database, and must not, because messages cross the ` +
      "borders of databases; separate systems by the option prefix instead",
  );
}

function parseLogin(login: string | undefined): RedisCredentials {
  if (login === undefined) return {};
  const colon = login.indexOf(":");
  const username = decode(
    colon < 0 ? login : login.slice(0, colon),
    "the user",
  );
  const password = colon < 0
    ? ""
    : decode(login.slice(colon + 1), "the password");
  if (password === "") {
    throw new TypeError(
      `${SUBJECT}: it has a user and no password, as in redis://user:password@host`,
    );
  }
  return username === "" ? { password } : { username, password };
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new TypeError(`${SUBJECT}: ${what} has a % that begins no character`);
  }
}
