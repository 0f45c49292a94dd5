/**
 * Figures of the process: CPU, memory, descriptors, and how late its timers run.
 *
 * @module
 */

import process from "node:process";
import { clearInterval, setInterval } from "node:timers";
import { readOpenFiles } from "../../core/open_files.ts";
import type { MetricName } from "./definitions.ts";

// The library has figures of its own, for Node: on Deno without --allow-read most of
// them are 0, and its lag of the event loop does not notice a loop that is blocked.

/** The figures of the process; null where they may not be read. */
export function processFigures(): Map<MetricName, number | null> {
  const { user, system } = process.cpuUsage();
  const { rss, heapTotal } = process.memoryUsage();
  const most = readOpenFiles();
  return new Map<MetricName, number | null>([
    ["process_cpu_seconds_total", (user + system) / 1e6],
    ["process_resident_memory_bytes", rss],
    ["process_heap_bytes", heapTotal],
    ["process_start_time_seconds", performance.timeOrigin / 1000],
    ["process_open_fds", countOpenFiles()],
    ["process_max_fds", most === Infinity ? null : most],
  ]);
}

/** How many files are open; null if that cannot be found out. */
function countOpenFiles(): number | null {
  if (!("Deno" in globalThis)) return null;
  const folder = "/proc/self/fd";
  const permission = { name: "read", path: folder } as const;
  // To request the permission could stop the program at a prompt.
  const granted = Deno.permissions.querySync(permission).state === "granted";
  if (!granted) return null;
  try {
    return [...Deno.readDirSync(folder)].length;
  } catch {
    // Another system, or the runtime wants all permissions for this folder.
    return null;
  }
}

const TICK_MS = 500;

/** Nobody asks any more, and nobody has closed the metrics. */
const IDLE_MS = 300_000;

/** Takes twice a second how late a timer runs, while somebody asks now and then. */
export class Lag {
  readonly #tell: (lateMs: number) => void;
  #timer: ReturnType<typeof setInterval> | undefined;
  #dueMs = 0;
  #askedMs = 0;

  constructor(tell: (lateMs: number) => void) {
    this.#tell = tell;
  }

  /** Goes on for some minutes. */
  keepUp(): void {
    this.#askedMs = performance.now();
    if (this.#timer !== undefined) return;
    this.#dueMs = performance.now() + TICK_MS;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    // It must not keep the process alive.
    this.#timer.unref();
  }

  #tick(): void {
    const now = performance.now();
    this.#tell(Math.max(0, now - this.#dueMs));
    this.#dueMs = now + TICK_MS;
    if (now - this.#askedMs > IDLE_MS) this.end();
  }

  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
