/**
 * The receiver of a cluster's webhooks. It verifies them, fails now and then so that
 * they come again, and knows what they say of each channel and member.
 *
 * @module
 */
import { Random } from "../../support/random.ts";
import { APP } from "../../support/server.ts";
import { hmac } from "../../support/wire.ts";
import { entry } from "./truth.ts";

/** How many webhooks are refused, to see them again. */
const FAILURE_SHARE = 0.05;
/** How many of the last reports of a channel or a member are kept, for people. */
const MAX_TRAIL = 12;

interface WebhookEvent {
  readonly name: string;
  readonly channel: string;
  readonly user_id?: string;
  readonly data?: string;
}

/** What the webhooks say of a channel or of a member. */
interface State {
  /** Null if nobody can know. */
  isOn: boolean | null;
  readonly trail: string[];
}

/** An address that takes webhooks; disposal ends it. */
export class WebhookReceiver implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #random: Random;
  /** By id, what came under it. */
  readonly #bodies = new Map<string, string>();
  /** Ids whose events have been taken. */
  readonly #taken = new Set<string>();
  readonly #states = new Map<string, State>();
  readonly #clientEvents = new Map<number, number>();
  #knowsAll = true;
  readonly problems: string[] = [];
  /** Webhooks that came under an id that had come before. */
  repeats = 0;
  onChange: () => void = () => {};

  constructor(seed: number) {
    this.#random = new Random(seed, 2);
    this.#server = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {} },
      (request) => this.#serve(request),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/hooks`;
  }

  /** Webhooks that came, each counted once. */
  get count(): number {
    return this.#taken.size;
  }

  /** How often the event of each client event was reported, by message. */
  get clientEvents(): ReadonlyMap<number, number> {
    return this.#clientEvents;
  }

  /** Redis has forgotten what was to be reported: nobody knows what will not come. */
  forget(): void {
    this.#knowsAll = false;
    for (const state of this.#states.values()) {
      state.isOn = null;
      this.#note(state, "forgotten");
    }
  }

  /**
   * What the webhooks say that is not so.
   *
   * @param members Who is on each presence channel.
   * @param occupied The channels that somebody is on.
   */
  differences(
    members: ReadonlyMap<string, ReadonlySet<string>>,
    occupied: ReadonlySet<string>,
  ): string[] {
    const truth = new Set(occupied);
    for (const [channel, users] of members) {
      for (const user of users) truth.add(`${channel} ${user}`);
    }
    const differences: string[] = [];
    for (const key of truth) {
      const state = this.#states.get(key);
      if (state === undefined ? !this.#knowsAll : state.isOn !== false) {
        continue;
      }
      differences.push(`no webhook says ${key}: ${state?.trail.join("; ")}`);
    }
    for (const [key, { isOn, trail }] of this.#states) {
      if (isOn !== true || truth.has(key)) continue;
      differences.push(`webhooks still say ${key}: ${trail.join("; ")}`);
    }
    return differences;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }

  async #serve(request: Request): Promise<Response> {
    const body = await request.text();
    const id = request.headers.get("x-pusher-webhook-id") ?? "";
    const signature = request.headers.get("x-pusher-signature");
    if (signature !== hmac(APP.secret, body)) {
      this.problems.push(`a webhook has a wrong signature: ${body}`);
    }
    const before = this.#bodies.get(id);
    if (before !== undefined) {
      this.repeats++;
      if (before !== body) {
        this.problems.push(
          `webhook ${id} has two bodies: ${before} and ${body}`,
        );
      }
    }
    this.#bodies.set(id, body);
    // It is taken when it is answered with a success, or the answer gets lost.
    const chance = this.#random.next();
    if (chance < FAILURE_SHARE / 2) return new Response(null, { status: 500 });
    if (!this.#taken.has(id)) {
      this.#taken.add(id);
      for (const event of JSON.parse(body).events) this.#take(event, id);
      this.onChange();
    }
    return new Response(null, { status: chance < FAILURE_SHARE ? 500 : 200 });
  }

  #take(event: WebhookEvent, id: string): void {
    const { name, channel, user_id, data } = event;
    const member = `${channel} ${user_id}`;
    switch (name) {
      case "channel_occupied":
        return this.#turn(channel, true, id);
      case "channel_vacated":
        return this.#turn(channel, false, id);
      case "member_added":
        return this.#turn(member, true, id);
      case "member_removed":
        return this.#turn(member, false, id);
      case "client_event": {
        const n = JSON.parse(data ?? "{}").n;
        this.#clientEvents.set(n, (this.#clientEvents.get(n) ?? 0) + 1);
      }
    }
  }

  #turn(key: string, isOn: boolean, id: string): void {
    const state = entry(
      this.#states,
      key,
      (): State => ({ isOn: this.#knowsAll ? false : null, trail: [] }),
    );
    this.#note(state, `${isOn ? "on" : "off"} ${id.slice(0, 8)}`);
    if (state.isOn === isOn) {
      this.problems.push(
        `webhooks say ${key} ${isOn ? "on" : "off"} twice in a row: ` +
          state.trail.join("; "),
      );
    }
    state.isOn = isOn;
  }

  #note(state: State, line: string): void {
    state.trail.push(`${Math.round(performance.now())} ${line}`);
    if (state.trail.length > MAX_TRAIL) state.trail.shift();
  }
}
