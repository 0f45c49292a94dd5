/**
 * Webhooks of several servers: what has happened is in a journal that they share,
 * and for each endpoint one of them at a time delivers it.
 *
 * @module
 */

import type { AppJournal, Clock, Journal } from "../../mod.ts";
import type { Webhooks } from "./dispatcher.ts";
import type { WebhookStatus } from "./endpoint.ts";
import {
  checkClose,
  CLOSE_TIMEOUT_MS,
  type EndpointSettings,
  type Settings,
} from "./options.ts";
import { Pauses } from "./pauses.ts";
import { Reporter } from "./reports.ts";
import { Sender } from "./request.ts";
import { Shift, type Totals } from "./shift.ts";

/** Webhooks whose events come from a journal. */
export class Relays implements Webhooks {
  readonly #relays: Relay[];
  #closing: Promise<void> | null = null;

  constructor(journal: AppJournal, settings: Settings, clock: Clock) {
    this.#relays = settings.endpoints.map((endpoint) =>
      new Relay({ endpoint, settings, clock, ...journal })
    );
  }

  get status(): WebhookStatus[] {
    return this.#relays.map((relay) => relay.status);
  }

  close(options: { timeoutMs?: number } = {}): Promise<void> {
    checkClose(options, { subject: "Cannot close webhooks", name: "" });
    const { timeoutMs = CLOSE_TIMEOUT_MS } = options;
    return this.#closing ??= this.#close(timeoutMs);
  }

  async #close(timeoutMs: number): Promise<void> {
    await Promise.all(this.#relays.map((relay) => relay.close(timeoutMs)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What a {@linkcode Relay} is made of. */
interface RelayOptions extends AppJournal {
  readonly endpoint: EndpointSettings;
  readonly settings: Settings;
  readonly clock: Clock;
}

/** How long a server waits that is not the reader, before it asks again. */
const CLAIM_MS = 1_000;

/** How long it waits where the journal cannot be reached, as at the start. */
const AWAY_MS = 250;

/** After so many failures in a row, five seconds, that is worth a report. */
const MAX_FAILURES = 20;

/** How long a request may take that is under way when the backplane closes. */
const YIELD_MS = 300;

/** An endpoint, which this server serves whenever no other does. */
class Relay {
  readonly #options: RelayOptions;
  readonly #reporter: Reporter;
  readonly #sender: Sender;
  readonly #name: string;
  readonly #unwant: () => void;
  readonly #startedMs: number;
  readonly #totals: Totals = { delivered: 0, dropped: 0, lost: 0 };
  /** The present turn as the reader. */
  #shift: Shift | null = null;
  /** The notes of the last turn, as long as no other server is the reader. */
  #former: ReadonlyMap<string, string> | null = null;
  /** Failures to reach the journal in a row. */
  #failures = 0;
  #isClosing = false;
  readonly #pauses: Pauses;
  readonly #worker: Promise<void>;

  constructor(options: RelayOptions) {
    this.#options = options;
    const { endpoint, settings, clock, journal } = options;
    this.#reporter = new Reporter(endpoint.url, settings.onError);
    this.#sender = new Sender(endpoint, settings, clock, this.#reporter);
    this.#name = useName(options);
    this.#pauses = new Pauses(clock);
    this.#unwant = journal.want();
    this.#startedMs = clock.elapsed();
    this.#worker = this.#work();
  }

  get status(): WebhookStatus {
    return {
      url: this.#options.endpoint.url,
      queued: this.#shift?.queued ?? 0,
      ...this.#totals,
    };
  }

  async close(timeoutMs: number): Promise<void> {
    this.#isClosing = true;
    this.#pauses.end();
    await this.#endShift(timeoutMs);
    await this.#worker;
    this.#unwant();
    usedNames.get(this.#options.journal)?.delete(this.#name);
  }

  /** Ends the turn as the reader: a request under way has some time left. */
  async #endShift(timeoutMs: number): Promise<void> {
    const shift = this.#shift;
    if (shift === null) return;
    const { clock } = this.#options;
    const cancel = clock.after(timeoutMs, () => shift.abandon());
    await shift.stop();
    cancel();
  }

  async #work(): Promise<void> {
    while (!this.#isClosing) {
      const isReached = await this.#serve();
      this.#failures = isReached ? 0 : this.#failures + 1;
      if (this.#isClosing) return;
      await this.#pauses.wait(isReached ? CLAIM_MS : AWAY_MS);
    }
  }

  /**
   * Serves the endpoint for as long as this server is the reader.
   *
   * @returns Whether the journal could be reached.
   */
  async #serve(): Promise<boolean> {
    const { clock, journal, endpoint, settings, app } = this.#options;
    try {
      const reader = await journal.claim(this.#name, {
        ageMs: clock.elapsed() - this.#startedMs,
        yield: () => this.#endShift(YIELD_MS),
      });
      if (reader === null) {
        this.#former = null;
        return true;
      }
      this.#failures = 0;
      const shift = new Shift({
        ...{ endpoint, settings, clock, app, reader, parts: journal.parts },
        ...{ sender: this.#sender, reporter: this.#reporter },
        ...{ totals: this.#totals, former: this.#former },
      });
      this.#shift = shift;
      this.#former = shift.notes;
      // It may have been closed in the meantime.
      if (this.#isClosing) await shift.stop();
      await shift.done;
      return true;
    } catch (cause) {
      if (this.#failures === MAX_FAILURES) {
        const reason = "the journal of the backplane cannot be reached";
        this.#reporter.report("retrying", [], { reason, cause });
      }
      return false;
    } finally {
      this.#shift = null;
    }
  }
}

/** Names of readers that this process uses, by journal. */
const usedNames = new WeakMap<Journal, Set<string>>();

/**
 * The name under which an endpoint reads. It has to be the same on each server and
 * after a restart, so it is made of the URL, and of a number where several endpoints
 * of an app have one URL.
 */
function useName({ journal, app, endpoint: { url } }: RelayOptions): string {
  const names = usedNames.get(journal) ?? new Set();
  usedNames.set(journal, names);
  let name: string;
  let place = 0;
  do name = `webhooks ${app} ${place++} ${url}`; while (names.has(name));
  names.add(name);
  return name;
}
