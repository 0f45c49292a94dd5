/**
 * Letters that are not what they seem: copied requests, paths that are escaped twice
 * or have doubled slashes, forms that are no JSON, ill-formed Unicode, subprotocols
 * that nobody knows. Each is answered as the protocol says, and does nothing.
 *
 * @module
 */
import { type Query, sign, type Signed } from "../../../support/wire.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";
import { APPS } from "../world.ts";

export const LETTERS: AttackKind = {
  turnMs: 100,
  begin: (stage) => new Letters(stage),
};

/** What is sent, and which answers are right. */
interface Letter {
  readonly what: string;
  readonly method: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array;
  readonly statuses: number[];
}

const JSON_TYPE = { "content-type": "application/json" };
const FORM_TYPE = { "content-type": "application/x-www-form-urlencoded" };

class Letters implements Attack {
  readonly #stage: Stage;
  readonly #prefix: string;

  constructor(stage: Stage) {
    this.#stage = stage;
    this.#prefix = new URL(stage.server.url).pathname.replace(/\/$/, "");
  }

  async act(): Promise<void> {
    const { random } = this.#stage;
    for (let i = 1 + random.below(4); i > 0; i--) {
      const make = random.of([
        () => this.#copied(),
        () => this.#misspelt(),
        () => this.#form(),
        () => this.#illFormed(),
        () => this.#subprotocol(),
      ]);
      await this.#deliver(make());
    }
  }

  async #deliver(letter: Letter): Promise<void> {
    const { what, method, path, headers = {}, body, statuses } = letter;
    const spelt = path.replace(/auth_\w+=[^&]*&?/g, "");
    const shown = typeof body === "string" ? body.slice(0, 100) : "";
    this.#stage.chronicle.note(`${what}: ${method} ${spelt} ${shown}`);
    using raw = await this.#stage.server.raw();
    const bytes = typeof body === "string"
      ? new TextEncoder().encode(body)
      : body ?? new Uint8Array();
    const all = {
      host: "a",
      ...headers,
      ...(!("upgrade" in headers) && { connection: "close" }),
      ...(method === "POST" && { "content-length": `${bytes.length}` }),
    };
    const lines = Object.entries(all).map(([name, value]) =>
      `${name}: ${value}\r\n`
    ).join("");
    await raw.write(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`);
    if (bytes.length > 0) await raw.write(bytes);
    const status = Number((await raw.readHead()).split(" ")[1]);
    this.#stage.chronicle.sure(
      statuses.includes(status),
      () =>
        `${what} is answered ${status}, not ${statuses}: ${method} ${path} ${shown}`,
    );
  }

  #signed(
    path: string,
    init: { method?: string; body?: unknown; query?: Query } = {},
  ): Signed {
    const { method = "POST", ...rest } = init;
    return sign(BESIEGED, method, this.#prefix + path, rest);
  }

  /** A request whose signature was made for another one. */
  #copied(): Letter {
    const { random } = this.#stage;
    const event = { name: "copied", channel: "plaza", data: "" };
    const events = this.#signed("/apps/besieged/events", { body: event });
    const { params, body } = events;
    const query = `${new URLSearchParams(params)}`;
    const root = `${this.#prefix}/apps`;
    const other = random.of(APPS).id;
    const user = random.of(["%41nn", "a%2fb", "a b", "%2541"]);
    const ends = `/terminate_connections`;
    const forUser = this.#signed(
      `/apps/besieged/users/${encodeURIComponent(user)}${ends}`,
      { body: {} },
    );
    const [path, sent] = random.of<[string, Uint8Array]>([
      [`${root}/${other}/events?${query}`, body],
      [`${root}/besieged/batch_events?${query}`, body],
      [`${root}/besieged/events?${query}&extra=1`, body],
      [`${root}/besieged/events?${query}`, body.slice(1)],
      [`${root}/besieged/events?${query}&auth_key=${APPS[0].key}`, body],
      [
        // Another user's path.
        `${root}/besieged/users/${
          encodeURIComponent(encodeURIComponent(user))
        }` +
        `${ends}?${new URLSearchParams(forUser.params)}`,
        forUser.body,
      ],
    ]);
    return {
      ...{ what: "copied request", method: "POST", path, body: sent },
      ...{ headers: JSON_TYPE, statuses: [401] },
    };
  }

  /** A path that means nothing, or another thing than it seems. */
  #misspelt(): Letter {
    const { random } = this.#stage;
    const { key } = BESIEGED;
    const [path, statuses] = random.of<[string, number[]]>([
      [`/app%252F${key}`, [404]],
      [`/app/${key}%252Fx`, [404]],
      [`/apps%2Fbesieged%2Fevents`, [404]],
      [`/apps/%2562esieged/events`, [404]],
      [`/apps/besieged//events`, [401, 404]],
      [`/apps//besieged/channels/plaza`, [401, 404]],
      [`/apps/besieged/channels//users`, [401, 404]],
      [`/apps/besieged/channels/%`, [400, 401]],
      [`/apps/besieged/channels/%ff`, [400, 401]],
      [`/apps/besieged/../one/channels`, [401]],
      [`/pusher//auth`, [400, 404, 405, 426]],
      [`//apps/besieged/channels`, [401, 404]],
    ]);
    return {
      ...{ what: "misspelt path", method: "GET", path: this.#prefix + path },
      ...{ statuses },
    };
  }

  /** A form of an auth endpoint that is not what its type says. */
  #form(): Letter {
    const { random } = this.#stage;
    const good = JSON.stringify({
      socket_id: "1.1",
      channel_name: "private-plaza",
      app_key: BESIEGED.key,
    });
    const [headers, body] = random.of<[Record<string, string>, string]>([
      [JSON_TYPE, good.slice(0, -1 - random.below(10))],
      [JSON_TYPE, `[${good}]`],
      [JSON_TYPE, "null"],
      [JSON_TYPE, `"${"\\ud800"}"`],
      [JSON_TYPE, good.replace('"1.1"', "{}")],
      [JSON_TYPE, good.replace('"1.1"', '"1.1:private-x"')],
      [JSON_TYPE, "[".repeat(5_000)],
      [FORM_TYPE, `socket_id=1.1&app_key=${BESIEGED.key}`],
      [FORM_TYPE, "%ff%fe=%"],
      [{ "content-type": "multipart/form-data; boundary=x" }, "--x\r\n\r\n"],
    ]);
    return {
      ...{ what: "malformed form", method: "POST", headers, body },
      ...{ path: `${this.#prefix}/pusher/auth`, statuses: [400] },
    };
  }

  /** Texts with bytes that are no characters, or with lone surrogates. */
  #illFormed(): Letter {
    const { random } = this.#stage;
    const path = `${this.#prefix}/apps/besieged/events`;
    const broken = new Uint8Array([0x7b, 0xc3, 0x28, 0x7d]);
    const user = '{"name":"e","channel":"#server-to-user-\\ud800","data":""}';
    const body = random.of<string | Uint8Array>([broken, user]);
    const { params } = sign(BESIEGED, "POST", path, { body });
    const query = new URLSearchParams(params);
    return {
      ...{ what: "ill-formed text", method: "POST", headers: JSON_TYPE, body },
      ...{ path: `${path}?${query}`, statuses: [400] },
    };
  }

  /** Subprotocols and versions of WebSockets that nobody knows. */
  #subprotocol(): Letter {
    const { random } = this.#stage;
    const [name, value, statuses] = random.of<[string, string, number[]]>([
      ["sec-websocket-protocol", "pusher-channels-protocol-99", [101]],
      ["sec-websocket-protocol", "a, b,, c", [101, 400]],
      ["sec-websocket-protocol", ",", [101, 400]],
      ["sec-websocket-protocol", "x".repeat(2_000), [101, 400]],
      ["sec-websocket-protocol", "pusher-channels-protocol-7, ws", [101]],
      ["sec-websocket-version", "12", [101, 400]],
      ["sec-websocket-key", "short", [101, 400]],
      ["sec-websocket-extensions", "permessage-deflate; x=", [101]],
    ]);
    const headers = {
      upgrade: "websocket",
      connection: "Upgrade",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      [name]: value,
    };
    const path = `${this.#prefix}/app/${BESIEGED.key}?protocol=7`;
    return {
      ...{ what: `${name}: ${value.slice(0, 30)}`, method: "GET" },
      ...{ path, headers, statuses },
    };
  }

  end(): Promise<void> {
    return Promise.resolve();
  }
}
