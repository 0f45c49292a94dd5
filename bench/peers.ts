/**
 * The servers that the bench compares, and how to install and start them. Each is
 * a small program in `peers/`, which gets its {@linkcode PeerOptions} as JSON.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import {
  type Ability,
  FOLDER,
  type Peer,
  type PeerCommand,
  type PeerOptions,
} from "./peer.ts";

/** Packages of npm, by name and version, and what replaces their dependencies. */
interface Packages {
  dependencies: Record<string, string>;
  overrides?: Record<string, string>;
}

const SOKETI: Packages = {
  dependencies: { "@soketi/soketi": "1.6.1" },
  overrides: {
    // The one that soketi names comes from a host of its own, and does not know
    // the releases of Node that are still maintained.
    "uWebSockets.js":
      "npm:@trufflesuite/uws-js-unofficial@20.30.0-unofficial.0",
  },
};

/** Every peer, in the order of tables. */
export const PEERS: readonly Peer[] = Object.freeze<Peer[]>([
  {
    name: "ours",
    label: "ours",
    dialect: "pusher",
    role: "ours",
    can: abilities(
      ...["fanout", "batch", "recover", "session", "in-process"] as const,
      ...["presence", "history", "turns", "redis"] as const,
      ...["connections", "signatures"] as const,
    ),
    install: async () => {},
    command: (options) => onDeno("ours.ts", options),
  },
  {
    name: "soketi",
    label: "soketi 1.6.1",
    dialect: "pusher",
    role: "peer",
    // It checks signatures, too, and refuses a wrong one with status 200.
    can: abilities("fanout", "connections", "presence", "redis"),
    install: () => install("soketi", SOKETI),
    command: (options) => onNode("soketi.mjs", options),
  },
  {
    name: "ws",
    label: "ws 8.23.0 on Node",
    dialect: "pusher",
    role: "peer",
    can: abilities("fanout", "connections"),
    install: () => install("ws", { dependencies: { ws: "8.23.0" } }),
    command: (options) => onNode("ws.mjs", options),
  },
  {
    name: "socketio",
    label: "Socket.IO 4.8.4",
    dialect: "socketio",
    role: "peer",
    can: abilities("fanout", "connections"),
    install: () =>
      install("socketio", { dependencies: { "socket.io": "4.8.4" } }),
    command: (options) => onNode("socketio.mjs", options),
  },
  {
    name: "faye",
    label: "Faye 1.4.3",
    dialect: "faye",
    role: "peer",
    can: abilities("fanout", "connections"),
    install: () => install("faye", { dependencies: { faye: "1.4.3" } }),
    command: (options) => onNode("faye.mjs", options),
  },
  {
    name: "bun",
    label: "Bun 1.4.5's publish",
    dialect: "pusher",
    role: "ceiling",
    can: abilities("fanout", "connections"),
    install: () => install("bun", { dependencies: { bun: "1.4.5" } }),
    command: (options) => onBun("bun.mjs", options),
  },
  {
    name: "bare",
    label: "bare Deno loop",
    dialect: "pusher",
    role: "floor",
    can: abilities("fanout", "connections"),
    install: async () => {},
    command: (options) => onDeno("bare.ts", options),
  },
  {
    // Its sockets are those of the bare loop.
    name: "signed",
    label: "signed bare loop",
    dialect: "pusher",
    role: "floor",
    can: abilities("fanout", "signatures"),
    install: async () => {},
    command: (options) => onDeno("bare.ts", { ...options, signed: true }),
  },
]);

function abilities(...list: Ability[]): ReadonlySet<Ability> {
  return new Set(list);
}

// ---- Starting ---------------------------------------------------------------

function onDeno(file: string, options: PeerOptions): PeerCommand {
  const flags = ["--allow-all", "--no-check", "--no-lock", "--quiet"];
  const args = ["run", ...flags, program(file)];
  return command(Deno.execPath(), options, args);
}

function onNode(file: string, options: PeerOptions): PeerCommand {
  return command("node", options, [program(file)]);
}

function onBun(file: string, options: PeerOptions): PeerCommand {
  // On all systems the program has this name.
  const bun = `${folderOf("bun")}node_modules/bun/bin/bun.exe`;
  return command(bun, options, [program(file)]);
}

function command(
  runtime: string,
  options: PeerOptions,
  args: string[],
): PeerCommand {
  return {
    command: runtime,
    args: [...args, JSON.stringify(options)],
    // soketi brings a library that warns of its age.
    env: { NODE_ENV: "production", NODE_NO_WARNINGS: "1" },
  };
}

function program(file: string): string {
  return fileURLToPath(new URL(`peers/${file}`, import.meta.url));
}

// ---- Installing -------------------------------------------------------------

function folderOf(name: string): string {
  return fileURLToPath(new URL(`${name}/`, FOLDER));
}

/** Installs packages for a peer, in a folder of its own, unless they are there. */
async function install(name: string, packages: Packages): Promise<void> {
  const folder = folderOf(name);
  const manifest = JSON.stringify({ private: true, ...packages });
  const done = `${folder}installed.json`;
  if (await readIfAny(done) === manifest) return;
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${folder}package.json`, manifest);
  console.error(`Installing ${Object.keys(packages.dependencies)} from npm`);
  const { success } = await new Deno.Command("npm", {
    args: ["install", "--no-audit", "--no-fund", "--loglevel=error"],
    cwd: folder,
    stdout: "null",
  }).output();
  if (!success) throw new Error(`Cannot install ${name}: npm says why above`);
  // An install that was interrupted starts over.
  await Deno.writeTextFile(done, manifest);
}

async function readIfAny(file: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
