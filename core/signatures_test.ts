import { assert, assertEquals, assertFalse } from "@std/assert";
import {
  channelText,
  decodePart,
  equalsInConstantTime,
  hmac,
  requestTexts,
  userText,
} from "./signatures.ts";

/** The secret that the protocol's documentation signs its examples with. */
const SECRET = "7ad3773142a6692b25b8";

Deno.test("signatures are those of the protocol's documentation", () => {
  const channel = channelText("1234.1234", "private-foobar", undefined);
  assertEquals(
    hmac(SECRET, channel),
    "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
  );
  const member = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}';
  assertEquals(
    hmac(SECRET, channelText("1234.1234", "presence-foobar", member)),
    "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
  );
});

Deno.test("a channel's permission, a member's and a user's cannot pass for each other", () => {
  assertEquals(channelText("1.2", "private-a", undefined), "1.2:private-a");
  assertEquals(channelText("1.2", "presence-a", "{}"), "1.2:presence-a:{}");
  assertEquals(userText("1.2", "{}"), "1.2::user::{}");
});

Deno.test("signatures are equal if all their characters are, whatever their length", () => {
  assert(equalsInConstantTime("ab", "ab"));
  assert(equalsInConstantTime("", ""));
  for (const given of ["", "a", "aB", "abc", "ä", "äb"]) {
    assertFalse(equalsInConstantTime("ab", given), given);
  }
});

Deno.test("a request is signed over its sorted parameters, without the signature", () => {
  const url = new URL(
    "http://example.com/apps/3/events?b=2&auth_signature=x&a=1%2B1&Auth_Signature=y",
  );
  assertEquals(
    requestTexts("POST", url, url.searchParams),
    new Set(["POST\n/apps/3/events\na=1+1&b=2"]),
  );
});

Deno.test("a request may be signed before or after escaping, with names as sent or in lower case", () => {
  const url = new URL(
    "http://example.com/apps/3/channels/presence-a%40b?Info=x",
  );
  const lower = new URLSearchParams("info=x");
  const path = "/apps/3/channels/presence-a";
  assertEquals(
    requestTexts("GET", url, lower),
    new Set([
      `GET\n${path}%40b\ninfo=x`,
      `GET\n${path}%40b\nInfo=x`,
      `GET\n${path}@b\ninfo=x`,
      `GET\n${path}@b\nInfo=x`,
    ]),
  );
});

Deno.test("a path that cannot be unescaped has only the texts as sent", () => {
  const url = new URL("http://example.com/apps/%ff");
  assertEquals(decodePart("%ff"), null);
  assertEquals(decodePart("a%40b"), "a@b");
  assertEquals(
    requestTexts("GET", url, url.searchParams),
    new Set(["GET\n/apps/%ff\n"]),
  );
});
