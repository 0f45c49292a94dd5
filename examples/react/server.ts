/**
 * The server of a page that Vite makes. See `main.tsx` for what to run.
 *
 * @module
 */
import { Pusher } from "../../mod.ts";

let guests = 0;

export const pusher = new Pusher({
  authorize(_request, { channel }) {
    if (channel !== "presence-room") return false;
    const id = ++guests;
    return { user_id: id, user_info: { name: `Guest ${id}` } };
  },
});

async function app(request: Request): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname !== "/messages") return reply(404, "not found");
  if (request.method !== "POST") {
    return new Response("use POST", {
      status: 405,
      headers: { allow: "POST" },
    });
  }
  const text = searchParams.get("text")?.trim() ?? "";
  if (text === "" || text.length > 1_000) {
    return reply(400, "a text has 1 to 1,000 characters");
  }
  await pusher.trigger("presence-room", "said", { text });
  return reply(201, "said");
}

const reply = (status: number, text: string) => new Response(text, { status });

/** For `Deno.serve`. */
export const handler = Pusher.cascade(pusher.handler, app);

if (import.meta.main) Deno.serve({ port: 8000 }, handler);
