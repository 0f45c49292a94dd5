/**
 * The runtime: the server needs Deno. Other runtimes can load it, so that it can say
 * what to run instead, and can run it in memory.
 *
 * @module
 */

/**
 * Throws where there is no Deno.
 *
 * @param what What cannot be done, such as "Cannot create a Pusher".
 */
export function requireDeno(what: string): void {
  if ("Deno" in globalThis || isInMemory) return;
  throw new Error(
    `${what}: ${NEEDS_DENO}, and this is ${runtimeName()}. ${RUN}`,
  );
}

let isInMemory = false;

/** Makes a server that opens no sockets of the runtime, which may be any. */
export function inMemory<Server>(make: () => Server): Server {
  isInMemory = true;
  try {
    return make();
  } finally {
    isInMemory = false;
  }
}

const NEEDS_DENO = "the server of @glitz/pusher needs Deno";

const RUN =
  'Run the program with "deno run --allow-net", or run "deno run --allow-net ' +
  'jsr:@glitz/pusher/cli" beside it and publish with the package "pusher". ' +
  "The client, @glitz/pusher/client, runs here, too";

/** The name and version of a runtime that is not Deno. */
function runtimeName(): string {
  const { Bun, process, navigator }: Globals = globalThis;
  if (Bun?.version !== undefined) return `Bun ${Bun.version}`;
  const node = process?.versions?.node;
  if (node !== undefined) return `Node.js ${node}`;
  return navigator?.userAgent ?? "another runtime";
}

/** What runtimes say of themselves. */
interface Globals {
  readonly Bun?: { readonly version?: string };
  readonly process?: { readonly versions?: { readonly node?: string } };
  readonly navigator?: { readonly userAgent?: string };
}
