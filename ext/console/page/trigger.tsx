/** @jsxRuntime automatic */
/** @jsxImportSource npm:preact@11.2.0 */
/**
 * The view with which to act: trigger an event, disconnect a user.
 *
 * @module
 */

import { useState } from "npm:preact@11.2.0/hooks";
import { post, type Refused } from "./api.ts";
import { Field } from "./parts.tsx";
import type { ViewProps } from "./view.ts";

export function Trigger({ app, session, say }: ViewProps) {
  const [channel, setChannel] = useState("");
  const [event, setEvent] = useState("");
  const [data, setData] = useState('{ "text": "hello" }');
  const [userId, setUserId] = useState("");
  const own = app || session.apps[0] || "";
  let isJson = true;
  try {
    JSON.parse(data);
  } catch {
    isJson = false;
  }
  const run = async (what: string, body: object, done: string) => {
    try {
      await post(what, { app: own, ...body });
      say(done);
    } catch (failure) {
      say((failure as Refused).message, true);
    }
  };
  return (
    <div class="columns">
      <form
        class="card"
        aria-labelledby="trigger-title"
        onSubmit={(submitted) => {
          submitted.preventDefault();
          run("trigger", { channel, event, data }, `Triggered ${event}`);
        }}
      >
        <h2 id="trigger-title">Trigger an event</h2>
        <Field
          label="Channel"
          required
          placeholder="my-channel"
          value={channel}
          onInput={setChannel}
        />
        <Field
          label="Event"
          required
          placeholder="my-event"
          value={event}
          onInput={setEvent}
        />
        <label class="field">
          <span>Data</span>
          <textarea
            rows={7}
            spellcheck={false}
            value={data}
            onInput={(input) => setData(input.currentTarget.value)}
          />
        </label>
        <p class="note">
          {isJson ? "It is JSON." : "It is no JSON, so clients get it as text."}
        </p>
        <div class="actions">
          <button type="submit" class="main">Trigger</button>
        </div>
      </form>
      <form
        class="card"
        aria-labelledby="user-title"
        onSubmit={(submitted) => {
          submitted.preventDefault();
          const done = `The connections of user ${userId} are closed`;
          run("disconnect-user", { userId }, done);
        }}
      >
        <h2 id="user-title">Disconnect a user</h2>
        <p class="note">
          Closes all connections that are signed in as the user, on all servers.
          Their clients do not reconnect by themselves.
        </p>
        <Field
          label="User id"
          required
          value={userId}
          onInput={setUserId}
        />
        <div class="actions">
          <button type="submit" class="danger">Disconnect</button>
        </div>
      </form>
    </div>
  );
}
