/**
 * Where a request comes from: this machine, a private network or elsewhere. What is
 * open to this machine alone is judged here, for the console and for the metrics.
 *
 * @module
 */

/** The part of `Deno.serve`'s info that matters. */
export type Info = Pick<Deno.ServeHandlerInfo, "remoteAddr"> | undefined;

/** What is known of where a request comes from. */
export type Place =
  | { readonly kind: "unknown" }
  /** A proxy has sent it, as a header shows. */
  | { readonly kind: "forwarded"; readonly header: string }
  /** From the socket of a file: only this machine can, and often a proxy does. */
  | { readonly kind: "file" }
  /** From this machine, for a host that is this machine. */
  | { readonly kind: "here" }
  /**
   * From this machine, for another host: a proxy that says nothing of itself, or a
   * page elsewhere whose name leads here.
   */
  | { readonly kind: "renamed" }
  | { readonly kind: "private" | "elsewhere" };

/** Headers by which a proxy shows that the request comes from elsewhere. */
const FORWARDING = Object.freeze([
  ...["forwarded", "via", "x-forwarded-for", "x-forwarded-host"],
  ...["x-forwarded-proto", "x-real-ip", "cf-connecting-ip", "true-client-ip"],
]);

/** The header that shows that a proxy has sent a request. */
export function forwardingHeader({ headers }: Request): string | undefined {
  return FORWARDING.find((name) => headers.has(name));
}

/** Finds out where a request comes from. */
export function placeOf(request: Request, info: Info): Place {
  const address = info?.remoteAddr;
  if (address === undefined) return { kind: "unknown" };
  const header = forwardingHeader(request);
  if (header !== undefined) return { kind: "forwarded", header };
  if (!("hostname" in address)) return { kind: "file" };
  const { hostname } = address;
  if (!isLoopback(hostname)) {
    return { kind: isPrivate(hostname) ? "private" : "elsewhere" };
  }
  return { kind: hostsOf(request).every(isLocalName) ? "here" : "renamed" };
}

/** The hosts that a request names, as they stand in URLs. */
function hostsOf({ headers, url }: Request): string[] {
  const header = headers.get("host");
  const asked = URL.parse(url)?.hostname ?? "";
  if (header === null) return [asked];
  return [asked, URL.parse(`http://${header}/`)?.hostname ?? ""];
}

/** Whether a host, as it stands in a URL, is this machine. */
export function isLocalName(host: string): boolean {
  const name = host.replace(/\.$/, "");
  return name === "localhost" || name.endsWith(".localhost") ||
    isLoopback(name.replace(/^\[|\]$/g, ""));
}

/** An IPv4 address as it is or inside an IPv6 address; else undefined. */
function ipv4Of(address: string): number[] | undefined {
  const text = address.replace(/^::ffff:/i, "");
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(text)) return undefined;
  return text.split(".").map(Number);
}

export function isLoopback(address: string): boolean {
  return address === "::1" || ipv4Of(address)?.[0] === 127;
}

/** Whether an address is of a private network, such as that of a cluster. */
export function isPrivate(address: string): boolean {
  const [a = 0, b = 0] = ipv4Of(address) ?? [];
  return isLoopback(address) || a === 10 ||
    (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168) ||
    (a === 169 && b === 254) || (a === 100 && b >= 64 && b < 128) ||
    /^f[cd][0-9a-f]{2}:|^fe[89ab][0-9a-f]:/i.test(address);
}

/**
 * The network of an address that one subscriber has: an IPv4 address, and the first
 * half of an IPv6 address, of which everybody has all others.
 */
export function networkOf(address: string): string {
  const ipv4 = ipv4Of(address);
  if (ipv4 !== undefined) return ipv4.join(".");
  // A zone says by which card the address is reached.
  const [text = ""] = address.toLowerCase().split("%");
  const [head = "", tail] = text.split("::");
  const groups = head.split(":").filter((group) => group !== "");
  const last = tail?.split(":").filter((group) => group !== "") ?? [];
  while (tail !== undefined && groups.length + last.length < 8) {
    groups.push("0");
  }
  return [...groups, ...last].slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, "")).join(":");
}
