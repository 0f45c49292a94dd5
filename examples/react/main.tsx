/** @jsxRuntime automatic */
/** @jsxImportSource react */
/** @jsxImportSourceTypes npm:@types/react@19.3.0 */
/**
 * A chat with React and Vite. Run `npm install` and `npx deno task dev` in this folder,
 * and open <http://localhost:5173/> in two windows.
 *
 * @module
 */
/// <reference lib="dom" />
import { Pusher } from "@glitz/pusher/client";
import { pusherHooks } from "@glitz/pusher/react";
// @ts-types="npm:@types/react@19.3.0"
import * as React from "react";
// @ts-types="npm:@types/react-dom@19.3.0/client"
import { createRoot } from "react-dom/client";

/** The channels, their events, and the data of each event. */
type Events = {
  "presence-room": {
    "pusher:user_info": { name: string };
    said: { text: string };
  };
};

const { useConnectionState, useEvent, usePresence } = pusherHooks(
  React,
  () => new Pusher<Events>("app-key", { url: location.origin }),
);

function Room() {
  const [texts, setTexts] = React.useState<string[]>([]);
  const { members } = usePresence("presence-room");
  useEvent("presence-room", "said", ({ text }) => {
    setTexts((earlier) => [text, ...earlier]);
  });
  return (
    <>
      <h1>A room</h1>
      <Status />
      <p>Here: {members.map(({ info }) => info.name).join(", ")}</p>
      <Form />
      <ul aria-live="polite">
        {texts.map((text, index) => <li key={texts.length - index}>{text}</li>)}
      </ul>
    </>
  );
}

function Status() {
  const state = useConnectionState();
  return <p role="status">{state === "connected" ? "" : "Connecting …"}</p>;
}

function Form() {
  const [fault, setFault] = React.useState("");
  async function send(form: FormData) {
    const query = new URLSearchParams({ text: `${form.get("text")}` });
    const answer = await fetch(`/messages?${query}`, { method: "POST" })
      .catch(() => null);
    setFault(answer?.ok ? "" : "Not sent: no connection");
  }
  return (
    <form action={send}>
      <label>
        Message{" "}
        <input name="text" required maxLength={1000} autoComplete="off" />
      </label>
      <button type="submit">Send</button>
      <p role="alert">{fault}</p>
    </form>
  );
}

createRoot(document.querySelector("#root")!).render(
  <React.StrictMode>
    <Room />
  </React.StrictMode>,
);
