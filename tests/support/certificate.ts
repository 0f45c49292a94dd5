/**
 * A certificate for servers on this machine, and the authority that has signed it.
 *
 * @module
 */
import { findInstalled } from "./installed.ts";

/** OpenSSL, or null where it is not installed. */
export const OPENSSL: string | null = findInstalled("openssl");

/** Files in PEM, deleted at the end of the test. */
export interface Certificate extends AsyncDisposable {
  /** Path of the server's certificate. */
  readonly cert: string;
  /** Path of its key. */
  readonly key: string;
  /** The authority's certificate, as text. */
  readonly ca: string;
}

/**
 * Makes one that is good for two days.
 *
 * @param name What it is good for, such as `IP:127.0.0.1` or `DNS:redis.test`.
 */
export async function makeCertificate(name: string): Promise<Certificate> {
  const directory = await Deno.makeTempDir({ prefix: "certificate_" });
  const file = (its: string) => `${directory}/${its}`;
  const made = [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ...["-nodes", "-days", "2"],
  ];
  await run([
    ...[...made, "-subj", "/CN=authority", "-keyout", file("ca.key")],
    ...["-out", file("ca.pem")],
  ]);
  await run([
    ...[...made, "-subj", "/CN=server", "-keyout", file("key.pem")],
    ...[
      "-out",
      file("cert.pem"),
      "-CA",
      file("ca.pem"),
      "-CAkey",
      file("ca.key"),
    ],
    ...["-addext", `subjectAltName=${name}`],
    ...["-addext", "basicConstraints=critical,CA:FALSE"],
  ]);
  return {
    cert: file("cert.pem"),
    key: file("key.pem"),
    ca: await Deno.readTextFile(file("ca.pem")),
    async [Symbol.asyncDispose]() {
      await Deno.remove(directory, { recursive: true });
    },
  };
}

async function run(args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(OPENSSL ?? "", {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}
