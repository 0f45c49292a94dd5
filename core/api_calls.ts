/**
 * The calls of the HTTP API: the routes below `/apps/{id}/`, and how each call is
 * read and answered.
 *
 * @module
 */

import type { PublishResult, TriggerResponse } from "./calls.ts";
import { preferred } from "./cascade.ts";
import { refuse } from "./http.ts";
import { isRefusal, type Limits, quote, Refusal } from "./limits.ts";
import { lowerCaseNames, type Query } from "./parameters.ts";
import {
  type Asking,
  checkChannelInfo,
  checkListInfo,
  describeChannel,
  joinInfo,
  listChannels,
  listUsers,
} from "./queries.ts";
import type { Awaitable } from "./time.ts";
import {
  checkChannelName,
  checkPresenceName,
  checkUserId,
  parseBatch,
  parsePublish,
  type Publish,
} from "./validation.ts";

/** What calls need of a server whose apps are of the type `App`. */
export interface ApiServer<App> {
  publish(
    app: App,
    publish: Publish,
    source: "http_api",
  ): Awaitable<PublishResult>;
  publishBatch(
    app: App,
    publishes: readonly Publish[],
    source: "http_api",
  ): Awaitable<PublishResult>;
  terminate(app: App, userId: string): Awaitable<PublishResult>;
  asking(app: App): Asking;
}

/** An authenticated call. */
export interface ApiCall<App> {
  readonly server: ApiServer<App>;
  readonly app: App;
  /** The second part of the route: a channel's name or a user's id. */
  readonly name: string;
  /** Names in lower case. */
  readonly query: Query;
  readonly body: Record<string, unknown>;
}

export interface ApiRoute {
  readonly method: "GET" | "POST";
  readonly serve: <App extends Limited>(
    call: ApiCall<App>,
  ) => Awaitable<object | Refusal>;
}

interface Limited {
  readonly limits: Limits;
}

/** Routes below `/apps/{id}/`; `*` stands for the name of a channel or user. */
export const API_ROUTES: ReadonlyMap<string, ApiRoute> = new Map<
  string,
  ApiRoute
>([
  ["events", { method: "POST", serve: serveEvents }],
  ["batch_events", { method: "POST", serve: serveBatchEvents }],
  ["channels", { method: "GET", serve: serveChannels }],
  ["channels/*", { method: "GET", serve: serveChannel }],
  ["channels/*/users", { method: "GET", serve: serveUsers }],
  ["users/*/terminate_connections", { method: "POST", serve: serveTerminate }],
]);

/** The route of {@linkcode API_ROUTES} that parts of a path ask for, or `unknown`. */
export function apiRouteName(parts: readonly string[]): string {
  const name = parts.map((part, i) => i === 1 ? "*" : part).join("/");
  return API_ROUTES.has(name) ? name : "unknown";
}

/**
 * Refuses a call of an app or a route that there is not. In a cascade the call may
 * be another handler's; if it is nobody's, this answer says why.
 *
 * @param app What was found under the id.
 */
export function refuseCall(
  { method }: Request,
  url: URL,
  appId: string | null,
  app: object | undefined,
): Response {
  const error = app === undefined
    ? `No app has the id ${
      quote(appId)
    }: the backend must name the app_id that this server has`
    : `The HTTP API has no ${method} ${quote(url.pathname)}, only ${
      [...API_ROUTES].map(([path, route]) => `${route.method} ${path}`)
        .join(", ")
    } below /apps/{id}/`;
  const answer = refuse(new Refusal(404, error));
  // Any other page may be below /apps/.
  return lowerCaseNames(url).has("auth_key") ? preferred(answer) : answer;
}

/** `POST /apps/{id}/events`: publishes to one channel or several. */
function serveEvents<App extends Limited>(
  { server, app, body }: ApiCall<App>,
): Awaitable<object> {
  const publish = parsePublish(body, app.limits);
  if (isRefusal(publish)) return publish;
  return server.publish(app, publish, "http_api");
}

/** `POST /apps/{id}/batch_events`: publishes all of several events or none. */
function serveBatchEvents<App extends Limited>(
  { server, app, body }: ApiCall<App>,
): Awaitable<object> {
  const publishes = parseBatch(body.batch, app.limits);
  if (isRefusal(publishes)) return publishes;
  return server.publishBatch(app, publishes, "http_api");
}

/** `GET /apps/{id}/channels`: the occupied channels. */
function serveChannels<App extends Limited>(
  { server, app, query }: ApiCall<App>,
): Awaitable<object> {
  const prefix = query.get("filter_by_prefix") ?? "";
  const info = checkListInfo(prefix, joinInfo(query).get("info"));
  return isRefusal(info)
    ? info
    : listChannels(server.asking(app), prefix, info);
}

/** `GET /apps/{id}/channels/{name}`: whether a channel is occupied, and counts. */
function serveChannel<App extends Limited>(
  { server, app, name, query }: ApiCall<App>,
): Awaitable<object> {
  const kind = checkChannelName(name, app.limits);
  if (isRefusal(kind)) return kind;
  const info = checkChannelInfo(kind, joinInfo(query).get("info"));
  return isRefusal(info)
    ? info
    : describeChannel(server.asking(app), { name, kind }, info);
}

/** `GET /apps/{id}/channels/{name}/users`: who is on a presence channel. */
function serveUsers<App extends Limited>(
  { server, app, name }: ApiCall<App>,
): Awaitable<object> {
  const kind = checkPresenceName(name, app.limits);
  return isRefusal(kind) ? kind : listUsers(server.asking(app), name);
}

/** `POST /apps/{id}/users/{id}/terminate_connections`. */
function serveTerminate<App extends Limited>(
  { server, app, name }: ApiCall<App>,
): Awaitable<object> {
  const id = checkUserId(name, app.limits);
  return isRefusal(id) ? id : server.terminate(app, id);
}

/** What a publish of the program resolves to, by the body that the API would send. */
export function triggerResponse(body: PublishResult): TriggerResponse {
  return {
    ok: true,
    status: 200,
    json: () => Promise.resolve(body),
    text: () => Promise.resolve(JSON.stringify(body)),
  };
}
