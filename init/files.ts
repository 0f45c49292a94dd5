/**
 * The files of a new project, as `init.ts` writes them. A test writes them, checks
 * their types and format, runs their tests, and opens their page.
 *
 * @module
 */

/** The content of each file, by its name. */
export const FILES: Readonly<Record<string, string>> = {
  "main.ts":
    `// The server: Pusher answers its own routes, and \`app\` all others.
import { Pusher } from "@glitz/pusher";
import page from "./page.html" with { type: "text" };

/** The channels, their events, and the data of each event, for the compiler. */
export type Events = {
  messages: { created: { text: string } };
};

export const pusher = new Pusher<Events>({
  // Backends that publish over HTTP need the secret. If it is not set, the server
  // makes one up at each start.
  secret: Deno.env.get("PUSHER_APP_SECRET"),
});

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  switch (\`\${request.method} \${pathname}\`) {
    case "GET /":
      return new Response(page, { headers: { "content-type": "text/html" } });
    case "POST /messages": {
      const text = new URL(request.url).searchParams.get("text")?.trim() ?? "";
      if (text === "" || text.length > 1_000) {
        return new Response("a text has 1 to 1,000 characters", {
          status: 400,
        });
      }
      await pusher.trigger("messages", "created", { text });
      return new Response("created", { status: 201 });
    }
    // For load balancers.
    case "GET /healthz":
      return new Response("ok");
    default:
      return new Response("not found", { status: 404 });
  }
}

export const handler = Pusher.cascade(pusher.handler, app);

if (import.meta.main) {
  const server = Deno.serve({
    port: Number(Deno.env.get("PORT") ?? 8000),
    onListen: ({ port }) => console.log(\`http://localhost:\${port}/\`),
  }, handler);
  // At a deploy, the clients leave over five seconds, and reconnect elsewhere.
  if (Deno.build.os !== "windows") {
    Deno.addSignalListener("SIGTERM", async () => {
      await pusher.close({ over: 5_000 });
      await server.shutdown();
      Deno.exit();
    });
  }
}
`,
  "page.html": `<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <meta name="color-scheme" content="light dark">
    <title>Messages</title>
    <link rel="icon" href="data:,">
    <style>
    :root {
      --accent: light-dark(#3f3cbb, #b4bcff);
      --card: light-dark(#fff, #1d222c);
      --paper: light-dark(#f3f5fa, #13161c);
    }
    body {
      font: 1.05rem/1.5 system-ui, sans-serif;
      max-width: 36rem;
      margin: auto;
      padding: 1rem;
      overflow-wrap: anywhere;
      background: var(--paper);
    }
    form {
      display: flex;
      gap: 0.6rem;
      align-items: end;
    }
    label {
      flex: 1;
      display: grid;
    }
    input,
    button,
    li {
      font: inherit;
      min-width: 0;
      padding: 0.5rem 0.9rem;
      border: 1px solid gray;
      border-radius: 0.6rem;
      background: var(--card);
    }
    button {
      color: var(--paper);
      background: var(--accent);
    }
    ul {
      list-style: none;
      padding: 0;
    }
    li {
      margin: 0.5rem 0;
    }
    </style>
  </head>
  <body>
    <main>
      <h1>Messages</h1>
      <form>
        <label>Message
          <input name="text" required maxlength="1000" autofocus autocomplete="off">
        </label>
        <button>Send</button>
      </form>
      <p role="status">Connecting …</p>
      <ul aria-live="polite"></ul>
    </main>
    <script src="/pusher.js"></script>
    <script>
    const messages = pusher.subscribe("messages", { rewind: 20 });
    messages.bind("created", ({ text }) => {
      const item = document.createElement("li");
      item.textContent = text;
      document.querySelector("ul").prepend(item);
    });
    // Events are lost, after a restart or a long time offline: load the state again.
    messages.bind("pusher:recovery_failed", () => location.reload());

    const status = document.querySelector("[role=status]");
    const showState = () => {
      const isConnected = pusher.connection.state === "connected";
      status.textContent = isConnected ? "" : "Connecting …";
    };
    pusher.connection.bind("state_change", showState);
    showState();

    document.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const form = event.target;
      const query = new URLSearchParams(new FormData(form));
      const answer = await fetch("/messages?" + query, { method: "POST" })
        .catch(() => null);
      if (answer?.ok) form.reset();
      else {status.textContent = "Not sent: " +
          (await answer?.text() ?? "no connection");}
    };
    </script>
  </body>
</html>
`,
  "main_test.ts":
    `// Tests of the program, in memory: \`deno task test\` runs them.
import { testPusher } from "@glitz/pusher/testing";
import { assertEquals } from "@std/assert";
import { handler, pusher } from "./main.ts";

Deno.test("a message reaches a subscriber", async () => {
  await using test = testPusher(pusher, { handler });
  const client = await test.connect();
  const messages = await client.subscribe("messages");
  const answer = await test.fetch("/messages?text=hello", { method: "POST" });
  assertEquals(await answer.text(), "created");
  assertEquals(await messages.next("created"), { text: "hello" });
});

Deno.test("a message without a text is refused", async () => {
  await using test = testPusher(pusher, { handler });
  const answer = await test.fetch("/messages?text=", { method: "POST" });
  assertEquals(answer.status, 400);
  await test.expectNothingPublished();
});
`,
  "deno.json": `{
  "tasks": {
    "start": "deno run --allow-net --allow-env=PORT,PUSHER_APP_SECRET main.ts",
    "dev": "deno run --watch --allow-net --allow-env=PORT,PUSHER_APP_SECRET main.ts",
    "test": "deno test --allow-env=PUSHER_APP_SECRET"
  },
  "imports": {
    "@glitz/pusher": "jsr:@glitz/pusher@^0.1.0",
    "@std/assert": "jsr:@std/assert@^1.0.0"
  }
}
`,
  "Dockerfile":
    `# docker build --tag app . && docker run --publish 8000:8000 app
FROM denoland/deno:2.9.6
WORKDIR /app
USER deno
# deno.lock pins the versions of all packages. "deno task test" has written it.
COPY deno.json deno.lock main.ts page.html ./
RUN deno cache --frozen main.ts
EXPOSE 8000
CMD ["run", "--no-prompt", "--cached-only", "--allow-net", "--allow-env=PORT,PUSHER_APP_SECRET", "main.ts"]
`,
  "app.service":
    `# For systemd. Copy the project to /opt/app, with the deno.lock that "deno task test"
# has written, and this file to /etc/systemd/system/. Write PUSHER_APP_SECRET=… to
# /etc/app.env. Then run:
# systemctl daemon-reload && systemctl enable --now app

[Unit]
Description=A server with Pusher
After=network-online.target
Wants=network-online.target

[Service]
WorkingDirectory=/opt/app
EnvironmentFile=-/etc/app.env
Environment=PORT=8000 DENO_DIR=/var/cache/app
# systemd looks for deno in /usr/local/bin and /usr/bin.
ExecStart=deno run --no-prompt --frozen --allow-net --allow-env=PORT,PUSHER_APP_SECRET main.ts
DynamicUser=yes
CacheDirectory=app
Restart=always
# The clients leave over five seconds.
TimeoutStopSec=15
# A file descriptor for each client.
LimitNOFILE=65536
ProtectSystem=strict
ProtectHome=yes

[Install]
WantedBy=multi-user.target
`,
  "README.md": `# A server with Pusher

\`\`\`sh
deno task dev
deno task test
\`\`\`

The first command serves <http://localhost:8000/>, and starts again when a file
changes. Open the page in two windows. The second command runs the tests.

| File           | What it contains                             |
| -------------- | -------------------------------------------- |
| \`main.ts\`      | the server: its channels, routes and options |
| \`page.html\`    | the page, and its client                     |
| \`main_test.ts\` | tests                                        |
| \`Dockerfile\`   | an image                                     |
| \`app.service\`  | a service for systemd                        |
| \`deno.lock\`    | the versions of all packages; tests write it |

## Next

- For private channels, give \`new Pusher\` a function \`authorize\`: it gets the
  request with its cookies, and says whether a client may join.
- To publish from other programs, set \`PUSHER_APP_SECRET\`, and use any SDK of
  Pusher with the app id \`1\` and the key \`app-key\`.
- Behind a proxy, pass on the headers \`Host\`, \`Upgrade\` and \`Connection\`.
- Several servers need a Redis: the option \`backplane\`.

The [documentation](https://jsr.io/@glitz/pusher) has more about each.
`,
};
