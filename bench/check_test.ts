/**
 * The peers that need no packages. `deno task bench --check` tries all of them.
 */
import { freePort } from "../tests/support/ports.ts";
import { checkPeer } from "./check.ts";
import { PEERS } from "./peers.ts";

for (const peer of PEERS) {
  const isAtHand = peer.role === "ours" || peer.role === "floor";
  if (!isAtHand) continue;
  Deno.test(`the bench's ${peer.name} does what it is measured for`, async () => {
    await peer.install();
    await checkPeer(peer, freePort());
  });
}
