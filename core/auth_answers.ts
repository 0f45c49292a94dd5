/**
 * The answers of the auth endpoints: what the program decides about a client, signed.
 *
 * @module
 */

import {
  type AnswerRules,
  AnswerTime,
  type AuthForm,
  checkAuthenticated,
  checkDecision,
  parseAuthChannels,
} from "./auth_requests.ts";
import type { Authenticate, Authorize, ChannelAuth } from "./calls.ts";
import type { HookQueue } from "./hooks.ts";
import { isRefusal, type Limits, type Refusal } from "./limits.ts";
import { type NamedChannel, REFUSAL } from "./protocol.ts";
import type { Signer } from "./signatures.ts";
import { checkChannelName } from "./validation.ts";

/** The app that a client asks for. */
export interface AskedApp {
  readonly id: string;
  readonly limits: Limits;
  readonly signer: Signer;
  readonly server: AnswerRules & {
    readonly hooks: HookQueue;
    readonly authenticate: Authenticate | undefined;
  };
  /** Signs a permission to subscribe. */
  authorize(
    socketId: string,
    channel: NamedChannel,
    member?: string,
  ): ChannelAuth;
}

/** Asks the program who a client is. */
export async function authenticateForm(
  { request, app, socketId, params }: AuthForm<AskedApp>,
  authenticate: Authenticate,
): Promise<object | Refusal> {
  const time = answerTime(app, "authenticating a user");
  try {
    const context = { app: app.id, socketId, params, signal: time.signal };
    const answer = await time.wait(authenticate(request, context));
    const user = isRefusal(answer)
      ? answer
      : checkAuthenticated(answer, app.limits);
    return isRefusal(user) ? user : app.signer.authenticate(socketId, user);
  } catch (error) {
    app.server.hooks.fail(error, "authenticating a user", app.id);
    return REFUSAL.AuthenticateFailed;
  } finally {
    time.end();
  }
}

/** Asks the program whether a client may join each channel that its form names. */
export async function authorizeForm(
  { request, app, socketId, params }: AuthForm<AskedApp>,
  authorize: Authorize,
): Promise<object | Refusal> {
  const named = parseAuthChannels(params, app.limits);
  if (isRefusal(named)) return named;
  const time = answerTime(app, "authorizing a channel");
  const { signal } = time;
  const decide = (channel: string) => {
    const context = { app: app.id, socketId, params, signal, channel };
    const ask = () => time.wait(authorize(request, context));
    return authorizeOne(app, channel, socketId, ask);
  };
  try {
    return typeof named === "string"
      ? await decide(named)
      : await decideAll(named, decide);
  } finally {
    time.end();
  }
}

/** What becomes of each of several channels. */
async function decideAll(
  named: readonly string[],
  decide: (channel: string) => Promise<ChannelAuth | Refusal>,
): Promise<object> {
  const channels = await Promise.all(named.map(async (channel) => {
    const answer = await decide(channel);
    if (!isRefusal(answer)) return [channel, answer] as const;
    const { error, status } = answer;
    return [channel, { error, status }] as const;
  }));
  return { channels: Object.fromEntries(channels) };
}

/** Asks the program about one channel. */
async function authorizeOne(
  app: AskedApp,
  name: string,
  socketId: string,
  ask: () => Promise<unknown>,
): Promise<ChannelAuth | Refusal> {
  const kind = checkChannelName(name, app.limits);
  if (isRefusal(kind)) return kind;
  if (!kind.auth) return REFUSAL.PublicChannel;
  const channel = { name, kind };
  const acceptsUsers = app.server.authenticate !== undefined;
  try {
    const decision = await ask();
    if (isRefusal(decision)) return decision;
    const member = checkDecision(decision, channel, acceptsUsers, app.limits);
    if (isRefusal(member)) return member;
    return app.authorize(socketId, channel, member);
  } catch (error) {
    app.server.hooks.fail(error, "authorizing a channel", app.id);
    return REFUSAL.AuthorizeFailed;
  }
}

// Not a `Disposable`: Node before version 24 cannot even load a module with `using`,
// and the server has to be loaded to say that it needs Deno.
function answerTime({ id, server }: AskedApp, during: string): AnswerTime {
  return new AnswerTime(server, (error) => {
    server.hooks.fail(error, during, id);
  });
}
