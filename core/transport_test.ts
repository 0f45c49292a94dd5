import { assertEquals } from "@std/assert";
import { closeTransport } from "./transport.ts";

Deno.test("closeTransport closes a transport, which may be closed already", () => {
  const closes: unknown[] = [];
  const transport = {
    bufferedAmount: 0,
    send() {},
    close(...args: unknown[]) {
      closes.push(args);
      throw new Error("It is closed");
    },
  };
  closeTransport(transport, 4200, "Reconnect");
  assertEquals(closes, [[4200, "Reconnect"]]);
});
