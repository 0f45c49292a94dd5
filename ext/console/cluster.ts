/**
 * What all servers together have to show: connections, problems, and who is on a
 * channel. Without other servers it is what this one has.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import type { Pusher } from "../../mod.ts";
import type { Feed } from "./feed.ts";
import { type FigureSources, Sampler } from "./figures.ts";
import { Follower } from "./follower.ts";
import { fitting, Line, LIST_UNITS } from "./line.ts";
import {
  type Answers,
  type ConnectionRow,
  connectionsQuery,
  listConnections,
  type ListPage,
  mergeConnections,
  MERGED_ROWS,
  type MergedPage,
  readConnections,
  readPageQuery,
} from "./lists.ts";
import { Peers, type PeersOwner } from "./peers.ts";
import { type Problem, type Problems, readProblems } from "./problems.ts";
import { cut } from "./text.ts";

/** A connection that is on a channel. */
export interface Subscriber {
  readonly node: string;
  readonly socketId: string;
}

/** What a cluster is made of: this server, and what hears of the others. */
export interface ClusterParts extends PeersOwner {
  readonly pusher: Pick<Pusher, "inspect">;
  readonly clock: Clock;
  readonly feed: Feed;
  readonly problems: Problems;
  readonly figures: FigureSources;
  readonly answers: Answers;
}

/** No id of an app or a server is longer. */
const MAX_ID_UNITS = 200;
const SHOWN_SUBSCRIBERS = 50;
/** Names of channels in the rows of a long list: a table shows no more. */
const FEW_CHANNELS = 3;
const LONG_LIST = 100;

/** Asks all servers, and answers for this one. */
export class Cluster {
  readonly peers: Peers;
  readonly #parts: ClusterParts;
  readonly #node: string;
  readonly #line: Line;
  readonly #follower: Follower;

  constructor(parts: ClusterParts) {
    const { pusher, clock, feed, problems } = parts;
    const { intercom, node } = pusher.inspect();
    this.#parts = parts;
    this.#node = node;
    const line = this.#line = new Line(intercom, node);
    const peers = this.peers = new Peers(line, clock, parts);
    const sampler = new Sampler(parts.figures);
    const follower = this.#follower = new Follower({
      ...{ line, feed, clock },
      tick: () => sampler.take(),
      begin: () => sampler.begin(),
      answers: {
        connections: ({ query }) => this.#answer(String(query)),
        subscribers: ({ app, channel }) => ({
          subscribers: this.#subscribers(String(app), String(channel)),
        }),
        problems: () => ({
          problems: fitting(problems.list(), LIST_UNITS),
        }),
        disconnect: ({ socketId, reconnects }) => ({
          closed: this.#close(String(socketId), reconnects === true),
        }),
      },
    });
    line.listen({
      call: (call) => follower.hear(call),
      word: (word) => peers.hear(word),
    });
  }

  // ---- Connections

  async connections(
    query: URLSearchParams,
  ): Promise<MergedPage & { silent: number }> {
    const node = query.get("node") ?? "";
    const app = (query.get("app") ?? "").slice(0, MAX_ID_UNITS);
    const page = readPageQuery(query);
    if (node === this.#node) return await this.#alone(query, 0);
    if (node !== "") {
      const args = { query: connectionsQuery(app, page) };
      const to = node.slice(0, MAX_ID_UNITS);
      const { answers, silent } = await this.peers.ask("connections", args, to);
      const list = readConnections(answers.get(node) ?? {}, node);
      return { ...list, reach: list.found, silent };
    }
    const size = Math.min((page.page + 1) * page.size, MERGED_ROWS);
    const first = connectionsQuery(app, { ...page, page: 0, size });
    const args = { query: first };
    const { answers, silent } = await this.peers.ask("connections", args);
    if (answers.size === 0) return await this.#alone(query, silent);
    const lists = [
      await this.#list(new URLSearchParams(first), MERGED_ROWS),
      ...Array.from(answers, ([from, body]) => readConnections(body, from)),
    ];
    return { ...mergeConnections(lists, page), silent };
  }

  async #alone(query: URLSearchParams, silent: number) {
    const list = await this.#list(query);
    return { ...list, reach: list.found, silent };
  }

  #list(
    query: URLSearchParams,
    maxSize?: number,
  ): Promise<ListPage<ConnectionRow>> {
    const app = query.get("app") ?? "";
    const page = readPageQuery(query, maxSize);
    const name = `connections ${JSON.stringify([app, page])}`;
    const { answers, pusher } = this.#parts;
    return answers.get(name, () => listConnections(pusher, app, page));
  }

  async #answer(query: string): Promise<Record<string, unknown>> {
    const { rows, ...counts } = await this.#list(
      new URLSearchParams(query),
      MERGED_ROWS,
    );
    const short = rows.length <= LONG_LIST ? rows : rows.map((row) => ({
      ...row,
      channels: row.channels.slice(0, FEW_CHANNELS),
    }));
    return { ...counts, rows: fitting(short, LIST_UNITS) };
  }

  // ---- Channels

  /** Who is on a channel, some of them. */
  async subscribers(app: string, channel: string): Promise<Subscriber[]> {
    const args = { app, channel: channel.slice(0, 2 * MAX_ID_UNITS) };
    const { answers } = await this.peers.ask("subscribers", args);
    const of = (node: string, ids: unknown) =>
      (Array.isArray(ids) ? ids : []).flatMap((id): Subscriber[] =>
        typeof id === "string" ? [{ node, socketId: cut(id) }] : []
      );
    return [
      ...of(this.#node, this.#subscribers(app, channel)),
      ...[...answers].flatMap(([node, body]) => of(node, body.subscribers)),
    ].slice(0, SHOWN_SUBSCRIBERS);
  }

  #subscribers(app: string, channel: string): string[] {
    const found: string[] = [];
    for (const one of this.#parts.pusher.inspect().connections()) {
      if (found.length >= SHOWN_SUBSCRIBERS) break;
      if (one.app !== app || !one.channels.includes(channel)) continue;
      found.push(one.socketId);
    }
    return found;
  }

  // ---- Problems

  /** The last problems of all servers, or of one, the latest first. */
  async problems(
    node: string,
  ): Promise<{ problems: Problem[]; silent: number }> {
    const own = node === "" || node === this.#node
      ? this.#parts.problems.list()
      : [];
    if (node === this.#node) return { problems: own, silent: 0 };
    const { answers, silent } = await this.peers.ask(
      "problems",
      {},
      node === "" ? undefined : node.slice(0, MAX_ID_UNITS),
    );
    const others = Array.from(
      answers,
      ([from, { problems }]) => readProblems(problems, from),
    ).flat();
    const problems = others.length === 0
      ? own
      : [...own, ...others].sort((a, b) => b.lastAt - a.lastAt);
    return { problems: problems.slice(0, MAX_PROBLEMS), silent };
  }

  // ---- Acting

  /** Closes a connection, on whatever server it is. */
  async disconnect(
    { socketId, node = "", reconnects }: {
      socketId: string;
      node?: string;
      reconnects: boolean;
    },
  ): Promise<"closed" | "unknown" | "silent"> {
    const isHere = node === "" || node === this.#node;
    if (isHere && this.#close(socketId, reconnects)) return "closed";
    if (node === this.#node) return "unknown";
    const { answers, silent } = await this.peers.ask(
      "disconnect",
      { socketId: socketId.slice(0, MAX_ID_UNITS), reconnects },
      node === "" ? undefined : node.slice(0, MAX_ID_UNITS),
    );
    if ([...answers.values()].some(({ closed }) => closed === true)) {
      return "closed";
    }
    return silent > 0 ? "silent" : "unknown";
  }

  #close(socketId: string, reconnects: boolean): boolean {
    const one = this.#parts.pusher.inspect().connection(socketId);
    one?.close(reconnects);
    return one !== undefined;
  }

  close(): void {
    this.peers.close();
    this.#follower.close();
    this.#line.close();
  }
}

/** Of all servers together. */
const MAX_PROBLEMS = 200;
