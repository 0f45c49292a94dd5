/**
 * Half bodies: requests whose bodies never end, or trickle. Each gets a 408 after
 * the server's deadline, or is broken off, and does nothing. Frames whose session
 * ends before that get a 404.
 *
 * @module
 */
import { HttpClient } from "../../../support/fallback.ts";
import { type RawClient, sign } from "../../../support/wire.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";

export const HALF_BODIES: AttackKind = {
  turnMs: 3_000,
  begin: (stage) => new HalfBodies(stage),
};

/** A request that is sent in part. */
interface Half {
  readonly raw: RawClient;
  readonly what: string;
  /** What has not been sent yet. */
  left: string;
}

class HalfBodies implements Attack {
  readonly #stage: Stage;
  readonly #halves: Half[] = [];
  #sessions = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async act(): Promise<void> {
    const { random } = this.#stage;
    for (const half of [...this.#halves]) {
      if (random.chance(0.1)) {
        this.#stage.chronicle.note(`${half.what} is broken off`);
        this.#halves.splice(this.#halves.indexOf(half), 1);
        half.raw.drop();
      } else if (random.chance(0.6) && half.left.length > 1) {
        this.#stage.chronicle.note(`${half.what} trickles`);
        await half.raw.write(half.left.slice(0, 1));
        half.left = half.left.slice(1);
      }
    }
    for (let i = random.below(4); i > 0; i--) await this.#begin();
  }

  async #begin(): Promise<void> {
    const { random, server } = this.#stage;
    const what = random.of(["event", "form", "json", "frames"]);
    const { path, type, body } = await this.#request(what);
    const sent = random.below(body.length - 20);
    this.#stage.chronicle.note(`${what} with ${sent} of ${body.length}`);
    const raw = await server.raw();
    await raw.write(
      `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Type: ${type}\r\n` +
        `Content-Length: ${body.length}\r\n\r\n${body.slice(0, sent)}`,
    );
    this.#halves.push({ raw, what, left: body.slice(sent) });
  }

  async #request(
    what: string,
  ): Promise<{ path: string; type: string; body: string }> {
    const { server } = this.#stage;
    const prefix = new URL(server.url).pathname.replace(/\/$/, "");
    const json = "application/json";
    if (what === "event") {
      const event = { name: "half", channel: "plaza", data: "x".repeat(200) };
      const path = `${prefix}/apps/${BESIEGED.id}/events`;
      const { params, body } = sign(BESIEGED, "POST", path, { body: event });
      const query = new URLSearchParams(params);
      const text = new TextDecoder().decode(body);
      return { path: `${path}?${query}`, type: json, body: text };
    }
    const fields = {
      socket_id: "1.1",
      channel_name: "private-plaza",
      app_key: BESIEGED.key,
      padding: "x".repeat(200),
    };
    const path = `${prefix}/pusher/auth`;
    if (what === "json") {
      return { path, type: json, body: JSON.stringify(fields) };
    }
    if (what === "form") {
      const type = "application/x-www-form-urlencoded";
      return { path, type, body: new URLSearchParams(fields).toString() };
    }
    const session = `7/half-session-${this.#sessions++}`;
    const client = new HttpClient(fetch, new URL(server.url).origin, {
      key: BESIEGED.key,
      path: `${prefix}/pusher`,
      session,
    });
    await client.receive("xhr");
    await client.rest();
    const frame = JSON.stringify({
      event: "pusher:ping",
      data: "x".repeat(99),
    });
    return {
      path: `${prefix}/pusher/app/${BESIEGED.key}/${session}/xhr_send`,
      type: "text/plain",
      body: JSON.stringify([frame, frame]),
    };
  }

  async end(): Promise<void> {
    await this.#stage.clock.passInSteps(30_000);
    for (const { raw, what } of this.#halves) {
      const answer = await raw.readHead();
      this.#stage.chronicle.sure(
        /^HTTP\/1.1 408 /.test(answer) ||
          what === "frames" && /^HTTP\/1.1 404 /.test(answer),
        () => `No 408 for ${what}: ${answer.slice(0, 300)}`,
      );
      raw.drop();
    }
  }
}
