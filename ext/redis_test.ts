/**
 * The backplane on Redis: the contract of backplanes, and what is Redis' own.
 */
import type { Backplane } from "@glitz/pusher";
import { redis } from "@glitz/pusher/redis";
import { SYSTEM_CLOCK } from "../core/time.ts";
import { testBackplane } from "../tests/support/backplane_contract.ts";
import type { Deployment } from "../tests/support/contract/stage.ts";
import { Gate } from "../tests/support/gate.ts";
import { HAS_REDIS, RedisServer } from "../tests/support/redis.ts";

const LEASE_MS = 800;

/** Servers of one Redis, each behind a gate of its own. */
async function open(): Promise<Deployment> {
  const server = await RedisServer.start();
  const gates = new Map<unknown, Gate>();
  return {
    clock: SYSTEM_CLOCK,
    connect() {
      const gate = new Gate(server.port);
      const backplane = redis(`redis://127.0.0.1:${gate.port}`, {
        leaseMs: LEASE_MS,
      });
      gates.set(backplane, gate);
      return backplane;
    },
    pass: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    async flush() {
      await server.command("FLUSHALL");
    },
    async kill(backplane) {
      gates.get(backplane)?.shut();
      await backplane.close();
    },
    async deafen(backplane, during) {
      gates.get(backplane)?.shut();
      await during();
      gates.get(backplane)?.open();
      await isBack(backplane);
    },
    async close() {
      for (const gate of gates.values()) await gate[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Waits until a backplane answers again; it is asked as nothing else says so here. */
async function isBack(backplane: Backplane): Promise<void> {
  for (;;) {
    try {
      return void await backplane.occupancy("app", "news");
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

if (HAS_REDIS) {
  testBackplane({
    title: "redis",
    open,
    // Redis has one limit for all memory, and sessions expire.
    unbounded: ["bytes", "sessions"],
    faults: ["death", "flush", "deafness"],
  });
} else {
  Deno.test.ignore(
    "redis: the contract of backplanes (no redis-server)",
    () => {},
  );
}
