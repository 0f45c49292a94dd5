/** Where requests come from: addresses, hosts and the headers of proxies. */
import { assertEquals } from "@std/assert";
import { networkOf, type Place, placeOf } from "./places.ts";

/** What a request says, and where its connection comes from. */
interface Case {
  readonly from?: string | null;
  readonly url?: string;
  readonly headers?: Record<string, string>;
}

function judge({ from = "127.0.0.1", url, headers = {} }: Case): Place {
  const request = new Request(url ?? "http://localhost:8000/", { headers });
  if (from === null) return placeOf(request, undefined);
  const remoteAddr: Deno.Addr = from === ""
    ? { transport: "unix", path: "/run/app" }
    : { transport: "tcp", hostname: from, port: 1 };
  return placeOf(request, { remoteAddr });
}

Deno.test("placeOf tells this machine from proxies, names that lead here, and others", () => {
  const cases: [Case, Place["kind"]][] = [
    [{}, "here"],
    [{ from: "127.8.8.8" }, "here"],
    [{ from: "::1", url: "http://[::1]:8000/" }, "here"],
    [{ from: "::ffff:127.0.0.1", url: "http://127.0.0.1/" }, "here"],
    [{ url: "http://app.localhost./" }, "here"],
    [{ headers: { host: "localhost:8000" } }, "here"],
    [{ headers: { host: "evil.example" } }, "renamed"],
    [{ headers: { host: "localhost.evil.example" } }, "renamed"],
    [{ headers: { host: "local host" } }, "renamed"],
    [{ headers: { host: "localhost@evil.example" } }, "renamed"],
    [{ url: "http://evil.example/" }, "renamed"],
    [
      { url: "http://evil.example/", headers: { host: "localhost" } },
      "renamed",
    ],
    [{ from: "10.1.2.3" }, "private"],
    [{ from: "::ffff:192.168.1.1" }, "private"],
    [{ from: "fd00::1" }, "private"],
    [{ from: "172.32.0.1" }, "elsewhere"],
    [{ from: "2001:db8::1" }, "elsewhere"],
    [{ from: "1270.0.0.1" }, "elsewhere"],
    [{ from: "" }, "file"],
    [{ from: null }, "unknown"],
  ];
  for (const [given, kind] of cases) {
    assertEquals(judge(given).kind, kind, JSON.stringify(given));
  }
  const names = [
    ...["forwarded", "via", "x-forwarded-for", "x-forwarded-host"],
    ...["x-forwarded-proto", "x-real-ip", "cf-connecting-ip"],
    "true-client-ip",
  ];
  for (const header of names) {
    for (const from of ["127.0.0.1", "10.0.0.1", ""]) {
      const place = judge({ from, headers: { [header]: "x" } });
      assertEquals(place, { kind: "forwarded", header }, header);
    }
  }
});

Deno.test("networkOf takes the first half of an IPv6 address, however it is written", () => {
  const cases = [
    ["1.2.3.4", "1.2.3.4"],
    ["::ffff:1.2.3.4", "1.2.3.4"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
    ["2001:0DB8:0001:0002::", "2001:db8:1:2"],
    ["2001:db8::1", "2001:db8:0:0"],
    ["::1", "0:0:0:0"],
    ["fe80::1%eth0", "fe80:0:0:0"],
    ["2001:db8:1:2::%2", "2001:db8:1:2"],
  ] as const;
  for (const [address, network] of cases) {
    assertEquals(networkOf(address), network, address);
  }
});
