/**
 * Shares the few connections that a browser opens to a host among the tabs of an
 * origin. Over HTTP/1.1 there are six, and a connection over HTTP takes one of them
 * for as long as it lives: with six such tabs no page of that host would load.
 *
 * The tabs tell each other when they were last shown, and a hidden tab gives way when
 * enough other tabs were shown later.
 *
 * @module
 */

/**
 * Number of tabs that stay connected. The rest of the six connections is for a tab
 * that is being shown, and for the requests of pages and clients.
 */
const MAX_TABS = 4;

/** When a tab may try again to give way: it is sending frames, which takes little. */
const RETRY_MS = 1_000;

/** What a tab tells the others. */
interface Notice {
  /** The id of the connection. */
  id: number;
  /** When its page was last shown: for ever while it is; null if it has given way. */
  shownAt: number | null;
  /** Whether the others should tell the same: then all begin with an empty list. */
  isNew: boolean;
}

/** The part of a document that matters here. */
interface Page extends EventTarget {
  readonly hidden: boolean;
}

/** Closes the connection until the tab is shown; false if it cannot be closed yet. */
type GiveWay = () => boolean;

/** The place of one connection among the tabs. */
export class Tab {
  readonly #id = Math.random();
  readonly #page: Page;
  readonly #channel: BroadcastChannel;
  readonly #giveWay: GiveWay | undefined;
  /** When the pages of the other connections were last shown, by their ids. */
  readonly #others = new Map<number, number>();
  #shownAt: number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  private constructor(page: Page, name: string, giveWay?: GiveWay) {
    this.#page = page;
    this.#giveWay = giveWay;
    // A page that was opened in the background has not been shown yet.
    this.#shownAt = page.hidden ? 0 : Infinity;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    page.addEventListener("visibilitychange", this.#handleVisibility);
    page.addEventListener("freeze", this.#handleFreeze);
    globalThis.addEventListener("pagehide", this.#handleLeave);
    this.#tell(true);
  }

  /**
   * Takes a place; undefined where there are no tabs, or where they cannot talk.
   *
   * @param host The host that the connection is to.
   * @param giveWay Without it the tab never gives way.
   */
  static join(host: string, giveWay?: GiveWay): Tab | undefined {
    const { document } = globalThis as { document?: Page };
    if (!document) return;
    try {
      return new Tab(document, `pusher ${host}`, giveWay);
    } catch {
      // Safari before 15.4 has no such channel, and browsers that keep no data of
      // the page refuse to open one. The tab keeps its connection.
    }
  }

  /** Leaves the place. */
  close(): void {
    clearTimeout(this.#timer);
    this.#page.removeEventListener("visibilitychange", this.#handleVisibility);
    this.#page.removeEventListener("freeze", this.#handleFreeze);
    globalThis.removeEventListener("pagehide", this.#handleLeave);
    this.#handleLeave();
    this.#channel.close();
  }

  readonly #handleVisibility = (): void => {
    this.#shownAt = this.#page.hidden ? Date.now() : Infinity;
    this.#tell();
    this.#decide();
  };

  /** Chrome stops the scripts of tabs that were hidden for minutes. */
  readonly #handleFreeze = (): void => {
    this.#giveWay?.();
  };

  readonly #handleLeave = (): void => {
    this.#channel.postMessage({ id: this.#id, shownAt: null, isNew: false });
  };

  #tell(isNew = false): void {
    const notice: Notice = { id: this.#id, shownAt: this.#shownAt, isNew };
    this.#channel.postMessage(notice);
  }

  #hear({ id, shownAt, isNew }: Notice): void {
    if (isNew) {
      // Tabs that crashed have not said that they are gone.
      this.#others.clear();
      this.#tell();
    }
    if (shownAt === null) this.#others.delete(id);
    else this.#others.set(id, shownAt);
    this.#decide();
  }

  /** Gives way if it is hidden, and enough other tabs come first. */
  #decide(): void {
    clearTimeout(this.#timer);
    const giveWay = this.#giveWay;
    if (!giveWay || !this.#page.hidden) return;
    const isLater = ([id, shownAt]: [number, number]) =>
      shownAt > this.#shownAt || (shownAt === this.#shownAt && id > this.#id);
    const isSurplus = [...this.#others].filter(isLater).length >= MAX_TABS;
    if (!isSurplus || giveWay()) return;
    this.#timer = setTimeout(() => this.#decide(), RETRY_MS);
  }
}
