/**
 * Where the masters are, and which bucket each of them has.
 *
 * @module
 */

import { type Location, showAddress } from "./address.ts";
import type {
  Address,
  ClientOptions,
  Credentials,
  RedisTls,
} from "./client.ts";
import type { ServerKind } from "./server.ts";

/** What a {@linkcode Topology} needs to know besides the URL. */
export interface TopologyOptions {
  readonly tags: readonly string[];
  readonly tls: RedisTls;
  readonly sentinel: Credentials;
  readonly answerMs: number;
}

/** Knows how to find the master of each bucket. */
export class Topology {
  readonly #location: Location;
  readonly #options: TopologyOptions;

  constructor(location: Location, options: TopologyOptions) {
    this.#location = location;
    this.#options = options;
  }

  /** The hosts and ports of the URL, for errors. */
  get where(): string {
    return this.#location.addresses.map(showAddress).join(", ");
  }

  get isSecure(): boolean {
    return this.#location.isSecure;
  }

  /** What a connection to a master needs to know. */
  clientOptions(
    { host, port }: Address,
  ): ClientOptions & { kind: ServerKind; slotOf(key: string): number } {
    const { kind, isSecure, credentials } = this.#location;
    return {
      ...{ host, port, credentials },
      tls: isSecure ? this.#options.tls : null,
      kind: kind === "cluster" ? "node" : "master",
      slotOf: () => NaN,
    };
  }

  /** By bucket, where its master is. */
  locate(): Promise<readonly Address[]> {
    const [address] = this.#location.addresses;
    return Promise.resolve(this.#options.tags.map(() => address));
  }

  /** Ends what is still being asked. */
  close(): void {}
}
