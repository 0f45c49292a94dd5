/**
 * soketi, with its array of apps and its local adapter, or that for Redis. Metrics
 * and debug output are off, as they are by default.
 *
 * @module
 */
import { createRequire } from "node:module";

const require = createRequire(new URL("../.peers/soketi/", import.meta.url));
const { Server } = require("@soketi/soketi");

const { port, presenceMembers = 100, redis } = JSON.parse(process.argv[2]);

Server.start({
  port,
  "host": "127.0.0.1",
  // It listens even where metrics are off.
  "metrics.port": 0,
  "appManager.array.apps.0.id": "bench",
  "appManager.array.apps.0.key": "bench-key",
  "appManager.array.apps.0.secret": "bench-secret",
  "presence.maxMembersPerChannel": presenceMembers,
  ...redis === undefined ? {} : {
    "adapter.driver": "redis",
    "database.redis.host": new URL(redis).hostname,
    "database.redis.port": Number(new URL(redis).port || 6379),
  },
}, () => console.log("ready"));
