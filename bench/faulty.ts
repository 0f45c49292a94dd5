/**
 * The bench, with two peers more: one drops a message, and one sends a message
 * twice. It has to notice both. Takes the flags of `deno task bench`.
 *
 * @module
 */
import type { Peer } from "./peer.ts";
import { PEERS } from "./peers.ts";
import { main } from "./run.ts";

function faulty(fault: string): Peer {
  const bare = PEERS.find(({ name }) => name === "bare")!;
  return {
    ...bare,
    name: fault,
    label: `a server that ${fault} a message`,
    command(options) {
      const { args, ...command } = bare.command(options);
      return {
        ...command,
        args: args.map((arg) => arg.replace(/bare\.ts$/, "faulty.ts")),
        env: { BENCH_FAULT: fault },
      };
    },
  };
}

if (import.meta.main) {
  const peers = [...PEERS, faulty("drops"), faulty("repeats")];
  Deno.exit(await main(Deno.args, peers));
}
