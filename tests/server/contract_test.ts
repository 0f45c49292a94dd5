/**
 * The contract of a backplane, for each kind that there is.
 */
import { type Backplane, MemoryBackplane } from "@glitz/pusher";
import { testBackplane } from "../support/backplane_contract.ts";
import { LaggingBackplane, SlowBackplane } from "../support/backplanes.ts";
import { ManualClock } from "../support/clock.ts";
import {
  type FaultyBackplane,
  FaultyMemory,
} from "../support/faulty_backplane.ts";

/** A kind on the memory of this process, each server with a peer of its own. */
function testOnMemory(
  title: string,
  wrap: (memory: Backplane) => Backplane,
): void {
  testBackplane({
    title,
    open() {
      const clock = new ManualClock();
      const memory = new MemoryBackplane();
      return {
        clock,
        connect: () => wrap(memory.peer()),
        pass: (ms) => clock.pass(ms),
      };
    },
  });
}

/** The same on memory that has faults. */
function testOnFaultyMemory(
  title: string,
  wrap: (memory: Backplane) => Backplane,
): void {
  testBackplane({
    title,
    faults: ["death", "flush", "deafness"],
    open() {
      const clock = new ManualClock();
      const memory = new FaultyMemory();
      const inner = new Map<Backplane, FaultyBackplane>();
      return {
        clock,
        connect() {
          const faulty = memory.connect();
          const wrapped = wrap(faulty);
          inner.set(wrapped, faulty);
          return wrapped;
        },
        pass: (ms) => clock.pass(ms),
        kill: (backplane) => inner.get(backplane)?.die(),
        flush: () => memory.flush(),
        async deafen(backplane, during) {
          inner.get(backplane)?.deafen();
          await during();
          inner.get(backplane)?.hear();
        },
      };
    },
  });
}

const KINDS: [name: string, wrap: (memory: Backplane) => Backplane][] = [
  ["memory", (memory) => memory],
  ["memory that answers later", (memory) => new SlowBackplane(memory)],
  ["memory that delivers later", (memory) => new LaggingBackplane(memory)],
];

for (const [name, wrap] of KINDS) {
  testOnMemory(name, wrap);
  testOnFaultyMemory(`faulty ${name}`, wrap);
}
