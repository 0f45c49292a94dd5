/**
 * The page's requests to its server.
 *
 * @module
 */

import type { Updates } from "../streams.ts";

/** Why a request was refused. */
export class Refused extends Error {
  override name = "Refused";
  readonly status: number;
  readonly takesPassword: boolean;

  constructor(status: number, message: string, takesPassword = false) {
    super(message);
    this.status = status;
    this.takesPassword = takesPassword;
  }
}

async function refusal(response: Response): Promise<Refused> {
  const body = await response.json().catch(() => ({}));
  const message = body.error ?? `The server answered ${response.status}`;
  return new Refused(response.status, message, body.takesPassword);
}

async function fetched(path: string, init: RequestInit): Promise<Response> {
  const response = await fetch(`api/${path}`, init).catch(() => {
    throw new Refused(0, "The server does not answer");
  });
  if (response.ok) return response;
  throw await refusal(response);
}

/** Asks for JSON. */
export async function get<T>(
  name: string,
  query: Record<string, string | number> = {},
  signal: AbortSignal | null = null,
): Promise<T> {
  const params = new URLSearchParams(
    Object.entries(query).map(([key, value]) => [key, String(value)]),
  );
  return await (await fetched(`${name}?${params}`, { signal })).json();
}

/** Does something. */
export async function post<T>(name: string, body: object): Promise<T> {
  const response = await fetched(name, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return await response.json();
}

// ---- The stream -------------------------------------------------------------

/** What the page does with updates. */
export interface StreamHandlers {
  onUpdate<Name extends keyof Updates>(name: Name, update: Updates[Name]): void;
  /** It is open, or it has broken off and is opened again later. */
  onState(isOpen: boolean, error?: Refused): void;
}

const FIRST_WAIT_MS = 1_000;
const LAST_WAIT_MS = 15_000;

/** Reads the stream, and opens it again when it ends. Returns what stops that. */
export function openStream(
  query: Record<string, string>,
  { onUpdate, onState }: StreamHandlers,
): () => void {
  const ending = new AbortController();
  const { signal } = ending;
  const read = async () => {
    for (let waitMs = FIRST_WAIT_MS; !signal.aborted;) {
      let error: Refused | undefined;
      try {
        const { body } = await fetched(
          `stream?${new URLSearchParams(query)}`,
          { signal },
        );
        waitMs = FIRST_WAIT_MS;
        onState(true);
        if (body !== null) await readEvents(body, onUpdate);
      } catch (failure) {
        if (signal.aborted) return;
        if (failure instanceof Refused) error = failure;
      }
      if (signal.aborted) return;
      onState(false, error);
      // Only the person who logs in can change that.
      if (error?.status === 401) return;
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      waitMs = Math.min(waitMs * 2, LAST_WAIT_MS);
    }
  };
  read();
  return () => ending.abort();
}

/** Reads server-sent events, each of a name and one line of JSON. */
export async function readEvents(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  onUpdate: StreamHandlers["onUpdate"],
): Promise<void> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    // Not every browser iterates over a stream.
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(event) ?? [];
      if (name === undefined || data === undefined) continue;
      // The server sends no other names.
      onUpdate(name as keyof Updates, JSON.parse(data));
    }
  }
}
