/**
 * The ways to attack that the fuzzer knows, by name.
 *
 * @module
 */
import { DESCRIPTORS } from "./attacks/descriptors.ts";
import { FLAPPING } from "./attacks/flapping.ts";
import { HALF_BODIES } from "./attacks/half_bodies.ts";
import { LETTERS } from "./attacks/letters.ts";
import { NATIVES } from "./attacks/natives.ts";
import { REPLAYS } from "./attacks/replays.ts";
import type { AttackKind } from "./siege.ts";

export const ATTACKS: ReadonlyMap<string, AttackKind> = new Map([
  ["flapping", FLAPPING],
  ["half-bodies", HALF_BODIES],
  ["letters", LETTERS],
  ["natives", NATIVES],
  ["replays", REPLAYS],
  ["descriptors", DESCRIPTORS],
]);
