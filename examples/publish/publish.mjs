// Publishes an event from Node.js without a package, to a server started with the
// same key and secret (--app-id 1 --key app-key --secret app-secret):
//   node publish.mjs messages create '{"text":"hello"}'
// The package "pusher" from npm, the official SDK, does the same and more.
import { createHash, createHmac } from "node:crypto";

const {
  PUSHER_URL = "http://localhost:6001",
  PUSHER_APP_ID = "1",
  PUSHER_APP_KEY = "app-key",
  PUSHER_APP_SECRET = "app-secret",
} = process.env;

/** Sends any data that has JSON; throws an error that says what is wrong. */
async function trigger(channel, event, data) {
  // The data is JSON in a text, in the JSON of the body.
  const message = { channel, name: event, data: JSON.stringify(data) };
  const body = JSON.stringify(message);
  const path = `/apps/${PUSHER_APP_ID}/events`;
  // The signature covers the method, the path, and the query in alphabetical order.
  const query = new URLSearchParams({
    auth_key: PUSHER_APP_KEY,
    auth_timestamp: Math.floor(Date.now() / 1_000),
    auth_version: "1.0",
    body_md5: createHash("md5").update(body).digest("hex"),
  });
  const signature = createHmac("sha256", PUSHER_APP_SECRET)
    .update(`POST\n${path}\n${query}`).digest("hex");
  const url = `${PUSHER_URL}${path}?${query}&auth_signature=${signature}`;
  const headers = { "content-type": "application/json" };
  const answer = await fetch(url, { method: "POST", headers, body });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return await answer.json();
}

const [channel, event, data] = process.argv.slice(2);
console.log(JSON.stringify(await trigger(channel, event, JSON.parse(data))));
