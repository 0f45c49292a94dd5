/**
 * What the views of the page get.
 *
 * @module
 */

import type { NodeState } from "../streams.ts";
import type { Refused } from "./api.ts";

/** What the server says of itself. */
export interface Session {
  readonly node: string;
  readonly isShared: boolean;
  readonly apps: readonly string[];
  readonly kinds: readonly string[];
  readonly takesPassword: boolean;
}

/** What all views get. */
export interface ViewProps {
  readonly session: Session;
  /** The app that is shown; "" for all. */
  readonly app: string;
  /** The server that is shown; "" for all. */
  readonly node: string;
  /** All servers, this one first. */
  readonly nodes: readonly NodeState[];
  /** How many more there are, which have said nothing. */
  readonly unheard: number;
  readonly onRefused: (error: Refused) => void;
  /** Says what an action has led to. */
  readonly say: (text: string, isError?: boolean) => void;
}
