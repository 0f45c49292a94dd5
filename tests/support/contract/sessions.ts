/**
 * Sessions of stock clients: what is kept of them, and who owns them.
 *
 * @module
 */
import type { History, SessionState } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { type FakeServer, SOME_APP } from "./server.ts";
import { AGE_MS, type Register } from "./stage.ts";

/** A state that can be told from others. */
export function stateOf(n: number): SessionState {
  const position = (offset: number) => ({ epoch: "an epoch {}\n€", offset });
  return {
    formerIds: [`${n}.1`, `${n}.2`],
    positions: new Map([
      ["news", position(n)],
      ["presence-cache-a=@,.;", position(0)],
      ["#user-ann {}\n:€", position(-1)],
    ]),
  };
}

/** Takes a session; its state in a form that can be compared. */
export async function take(
  { backplane: { sessions } }: FakeServer,
  id: string,
  app = SOME_APP,
): Promise<unknown> {
  return shown(await sessions.take(app, id));
}

/** A state in a form that can be compared. */
export function shown(state: SessionState | "forgotten" | null): unknown {
  if (state === null || state === "forgotten") return state;
  const { formerIds, positions, hasLost = false } = state;
  const sorted = [...positions].sort();
  return { formerIds: [...formerIds], positions: sorted, hasLost };
}

/** Keeps a session. */
export async function keep(
  { backplane: { sessions } }: FakeServer,
  id: string,
  state: SessionState,
  isAway = false,
): Promise<void> {
  await sessions.keep(SOME_APP, id, state, isAway);
}

const ID = "0123456789abcdef-_";

export function testSessions(
  test: Register,
  keeps: (bound: keyof History) => boolean,
): void {
  test("a session is new, and later what was kept of it", async (stage) => {
    const [one, two] = await stage.two();
    assertEquals(await take(one, ID), null);
    await keep(one, ID, stateOf(1));
    await keep(one, ID, stateOf(2), true);
    assertEquals(await take(two, ID), shown(stateOf(2)));
    await keep(two, ID, stateOf(3), true);
    assertEquals(await take(one, ID), shown(stateOf(3)));
    // It is this server's already.
    assertEquals(await take(one, ID), shown(stateOf(3)));
    const lost = { ...stateOf(4), hasLost: true };
    await keep(one, ID, lost, true);
    assertEquals(await take(two, ID), shown(lost));
    await keep(two, ID, stateOf(5), true);
    assertEquals(await take(one, ID), shown(stateOf(5)));
    assertEquals([one.lostSessions, two.lostSessions], [[], []]);
  });

  test("a session that is taken is lost to the server that owned it", async (stage) => {
    const [one, two] = await stage.two();
    await take(one, ID);
    await keep(one, ID, stateOf(1));
    assertEquals(await take(two, ID), shown(stateOf(1)));
    await stage.until(() => one.lostSessions.length > 0);
    // What the former owner says now is too late.
    await keep(one, ID, stateOf(2));
    await keep(one, ID, stateOf(2), true);
    await one.backplane.sessions.forget(SOME_APP, ID);
    await keep(two, ID, stateOf(3));
    await keep(one, ID, stateOf(4), true);
    assertEquals(await take(one, ID), shown(stateOf(3)));
    await stage.until(() => two.lostSessions.length > 0);
    assertEquals([one.lostSessions, two.lostSessions], [[ID], [ID]]);
  });

  test("of two servers that take a session at once, one owns it", async (stage) => {
    const [one, two] = await stage.two();
    for (let n = 0; n < 10; n++) {
      const id = `${ID}${n}`;
      await Promise.all([take(one, id), take(two, id)]);
      const lost = () =>
        [one, two].filter(({ lostSessions }) => lostSessions.includes(id));
      await stage.until(() => lost().length > 0);
      const [loser, ...others] = lost();
      assertEquals(others, []);
      await keep(loser!, id, stateOf(1), true);
      const owner = loser === one ? two : one;
      await keep(owner, id, stateOf(2), true);
      assertEquals(await take(one, id), shown(stateOf(2)));
    }
  });

  test("a session with nothing to remember can be dropped", async (stage) => {
    const [one, two] = await stage.two();
    await take(one, ID);
    await keep(one, ID, stateOf(1));
    await one.backplane.sessions.forget(SOME_APP, ID);
    assertEquals(await take(two, ID), null);
  });

  test("sessions of two apps or with two ids have nothing to do with each other", async (stage) => {
    const [one, two] = await stage.two();
    await take(one, ID);
    await keep(one, ID, stateOf(1));
    assertEquals(await take(two, ID, "other"), null);
    assertEquals(await take(two, `${ID}_`), null);
    assertEquals(await take(two, ID.toUpperCase()), null);
    assertEquals(one.lostSessions, []);
    assertEquals(await take(two, ID), shown(stateOf(1)));
  });

  test("a session is forgotten when its client has been away for ageMs", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    for (const id of [`${ID}1`, `${ID}2`]) {
      await take(one, id);
      await keep(one, id, stateOf(1), true);
    }
    await stage.deployment.pass(AGE_MS / 2);
    assertEquals(await take(two, `${ID}1`), shown(stateOf(1)));
    await stage.deployment.pass(AGE_MS);
    assertEquals(await take(two, `${ID}2`), "forgotten");
    // It goes on from here as any other.
    await keep(two, `${ID}2`, stateOf(3), true);
    assertEquals(await take(one, `${ID}2`), shown(stateOf(3)));
  });

  test("a session does not age while a server owns it", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    await take(one, ID);
    await keep(one, ID, stateOf(1), true);
    await take(one, ID);
    await stage.deployment.pass(1.5 * AGE_MS);
    assertEquals(await take(two, ID), shown(stateOf(1)));
  });

  if (keeps("sessions")) {
    test("history.sessions bounds how many are away", async (stage) => {
      const [one, two] = await stage.two({ sessions: 3 });
      const ids = [1, 2, 3, 4, 5].map((n) => `${ID}${n}`);
      for (const id of ids) {
        await take(one, id);
        await keep(one, id, stateOf(1));
      }
      // All of them are there, so none counts.
      for (const id of ids) await keep(one, id, stateOf(2), true);
      for (const [index, id] of ids.entries()) {
        const expected = index < 2 ? "forgotten" : shown(stateOf(2));
        assertEquals(await take(two, id), expected, id);
      }
    });
  }
}
