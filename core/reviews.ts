/**
 * The program's review of client events, before they are relayed.
 *
 * @module
 */

import { type AnswerRules, AnswerTime } from "./auth_requests.ts";
import type { ReviewClientEvent, SentClientEvent } from "./calls.ts";
import { isRefusal, type Limits, overLimit, quote, Refusal } from "./limits.ts";
import { isObject, kindOf } from "./protocol.ts";
import { attempt, type Awaitable } from "./time.ts";
import { encodeClientData } from "./validation.ts";

/** The data with which an event is relayed, why it is refused, or null to drop it. */
export type Verdict = { readonly data: string | undefined } | Refusal | null;

/** An event that may be relayed: what the program sees, and its data as text. */
export interface Pending {
  readonly sent: Omit<SentClientEvent, "signal">;
  readonly data: string | undefined;
}

/** What all reviews of a server share. */
export interface ReviewServices extends AnswerRules {
  readonly hooks: {
    fail(error: unknown, during: string, appId: string): void;
  };
}

const NOT_ALLOWED = new Refusal(403, "The server does not allow this event");
const NOT_REVIEWED = new Refusal(500, "The server could not review the event");
const NOT_RELAYED = new Refusal(500, "The server could not relay the event");

/**
 * Asks the program about the events of one connection: about each as it comes, so
 * that a slow answer delays no other question. The verdicts on one channel are
 * carried out in the order of its events.
 */
export class Reviews {
  readonly #review: ReviewClientEvent;
  readonly #limits: Readonly<Limits>;
  readonly #services: ReviewServices;
  /** The last event of each channel on which events wait. */
  readonly #last = new Map<string, Promise<void>>();
  #waiting = 0;

  constructor(
    review: ReviewClientEvent,
    limits: Readonly<Limits>,
    services: ReviewServices,
  ) {
    this.#review = review;
    this.#limits = limits;
    this.#services = services;
  }

  /**
   * Has the verdict on an event carried out: in the same turn, if the program
   * answers in the same turn and no event of the channel waits. Later verdicts are
   * not waited for, as the client's other frames are not the program's business.
   */
  take(
    pending: Pending,
    carryOut: (verdict: Verdict) => Awaitable<void>,
  ): Awaitable<void> {
    if (this.#waiting >= this.#limits.pendingClientEvents) {
      const found = "Too many client events wait for the server's review";
      return carryOut(overLimit("pendingClientEvents", this.#limits, found));
    }
    const { app, channel } = pending.sent;
    const verdict = this.#ask(pending);
    const before = this.#last.get(channel);
    if (before === undefined && !(verdict instanceof Promise)) {
      return carryOut(verdict);
    }
    this.#waiting++;
    const done = Promise.all([verdict, before])
      .then(([decided]) => carryOut(decided))
      .catch((error) => {
        this.#services.hooks.fail(error, "relaying a client event", app);
        return carryOut(NOT_RELAYED);
      })
      .finally(() => {
        this.#waiting--;
        if (this.#last.get(channel) === done) this.#last.delete(channel);
      });
    this.#last.set(channel, done);
  }

  /** Asks the program. Whatever goes wrong refuses the event. */
  #ask({ sent, data }: Pending): Awaitable<Verdict> {
    const services = this.#services;
    const fail = (error: unknown) => {
      services.hooks.fail(error, "reviewing a client event", sent.app);
      return NOT_REVIEWED;
    };
    // A program that answers at once needs no timer.
    let time: AnswerTime | undefined;
    const begin = () => time ??= new AnswerTime(services, fail);
    const end = () => time?.end();
    const answer: unknown = attempt(() =>
      this.#review({
        ...sent,
        get signal() {
          return begin().signal;
        },
      })
    );
    const check = (given: unknown) =>
      isRefusal(given)
        ? given
        : checkAnswer(given, sent.channel, data, this.#limits);
    // Looking at an answer runs code of the program, too: getters, and proxies.
    const verdict = attempt(() =>
      isThenable(answer)
        ? begin().wait<unknown>(answer).then(check)
        : check(answer)
    );
    if (verdict instanceof Promise) return verdict.catch(fail).finally(end);
    end();
    return verdict;
  }
}

function isThenable(value: unknown): value is Promise<unknown> {
  return isObject(value) && typeof value.then === "function";
}

/**
 * The verdict that an answer of the program means.
 *
 * @throws {TypeError} If it is none; a RangeError if its data is over a limit.
 */
export function checkAnswer(
  answer: unknown,
  channel: string,
  data: string | undefined,
  limits: Limits,
): Verdict {
  if (answer === true) return { data };
  if (answer === null) return null;
  if (answer === false || answer === "") return NOT_ALLOWED;
  if (typeof answer === "string") return new Refusal(403, answer);
  // An event or a channel beside the data would not be changed.
  if (!isObject(answer) || Object.keys(answer).join() !== "data") {
    throw new TypeError(
      `Cannot review a client event on ${quote(channel)}: clientEvents has ` +
        `returned ${quote(answer)}, and must return true, false, the reason ` +
        "of a refusal, null, or an object with data alone",
    );
  }
  const what = `Cannot change a client event on ${quote(channel)}`;
  if (kindOf(channel).encrypted) {
    throw new TypeError(`${what}: its subscribers take encrypted data only`);
  }
  const { data: given } = answer;
  const changed = encodeClientData(given, limits);
  if (changed === undefined && given !== undefined) {
    throw new TypeError(
      `${what}: data is ${
        quote(given)
      }, and must be a value that JSON can hold`,
    );
  }
  if (isRefusal(changed)) throw new RangeError(`${what}: ${changed.error}`);
  return { data: changed };
}
