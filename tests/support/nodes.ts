/**
 * Several standalone servers in one process, one by Redis, behind a balancer. A
 * program takes less of a machine than several, and the servers share nothing else.
 *
 * ```sh
 * deno run -A tests/support/nodes.ts 3 --redis redis://localhost:6379 --secret s
 * ```
 *
 * What follows the number are the flags of `cli.ts`.
 *
 * @module
 */
import { readSettings } from "../../cli/settings.ts";
import { standalone } from "../../cli/handler.ts";
import { type Standalone, standUp } from "../../cli/standalone.ts";
import { Balancer } from "./balancer.ts";

async function main([count, ...flags]: string[]): Promise<void> {
  const settings = readSettings(flags);
  if (settings === null || settings.redis === null) {
    throw new Error("Cannot start: the servers need --redis to be one");
  }
  const nodes: Standalone[] = [];
  const ports: number[] = [];
  const { hostname, drainMs } = settings;
  for (let i = 0; i < Number(count); i++) {
    const node = await standUp(settings);
    await node.up;
    const { addr } = Deno.serve(
      { hostname, port: 0, onListen() {} },
      standalone(node),
    );
    nodes.push(node);
    ports.push(addr.port);
  }
  const stop = async () => {
    await Promise.all(nodes.map(async ({ pusher, senders }) => {
      await pusher.close({ over: drainMs });
      await Promise.all(senders.map((sender) => sender.close()));
    }));
    Deno.exit(0);
  };
  Deno.addSignalListener("SIGTERM", stop);
  const balancer = await Balancer.open(ports);
  console.log(`Pusher servers on ws://127.0.0.1:${balancer.port}/app/…`);
}

await main(Deno.args);
