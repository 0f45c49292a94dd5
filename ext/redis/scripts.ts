/**
 * All scripts, for a connection to load. Each is in the file of its subject.
 *
 * @module
 */

import { JOURNAL_SCRIPTS } from "./journal_scripts.ts";
import { LEASE_SCRIPTS } from "./lease_scripts.ts";
import { MEMBERSHIP_SCRIPTS } from "./membership_scripts.ts";
import { MESSAGE_SCRIPTS } from "./message_scripts.ts";
import type { Script } from "./script.ts";
import { SESSION_SCRIPTS } from "./session_scripts.ts";

/** All scripts but the one that asks for rights, which knows the keys. */
export const SCRIPTS: readonly Script[] = [
  ...LEASE_SCRIPTS,
  ...MEMBERSHIP_SCRIPTS,
  ...MESSAGE_SCRIPTS,
  ...SESSION_SCRIPTS,
  ...JOURNAL_SCRIPTS,
];
