/**
 * Messages to subscribers and between servers, and the history, as scripts; see
 * `script.ts` for what holds of all of them.
 *
 * @module
 */

import { CHANNEL, FENCE, type Script, script, TIME } from "./script.ts";

/**
 * Publishes a message: its offset, the history, the topic, the last event.
 *
 * KEYS meta, holdings, state, history, last, topic, journal. ARGV 1 generation;
 * 2 channel; 3 message; 4 whether it is logged, or `terminate`; 5 how long it is the
 * last event, or nothing; 6 deadline; 7 whether webhooks get it; 8 life.
 * Returns OK, DEAD, STALE or LATE.
 */
export const PUBLISH: Script = script(
  "publish",
  TIME,
  CHANNEL,
  FENCE,
  `
local meta, n, h, s, l, topic, w = unpack(KEYS)
local message, life = ARGV[3], ARGV[8]
local token = redis.call('HGET', meta, 'tok')
local code = refusal(redis.call('HGET', n, ''), token, ARGV[1])
if code then return code end
local t = now()
if t > tonumber(ARGV[6]) then return 'LATE' end
local ch = channel(h, token)
local place = ' 0 '
if ch then
  ch.o = ch.o + 1
  local id = text(ch.o)
  if ARGV[4] == '1' then
    if isKept(ch, t) then
      redis.call('XADD', s, 'MAXLEN', '~', text(ch.y), id .. '-0', 'p', text(ch.l), 't', text(t), 'm', message)
      redis.call('PEXPIRE', s, text(ch.x))
    end
    redis.call('HSET', h, 'o', id, 'l', id)
  elseif ARGV[4] == 'terminate' then
    redis.call('HSET', h, 'o', id, 'z', id)
  else
    redis.call('HSET', h, 'o', id)
  end
  say(topic, ch, message)
  place = ch.e .. ' ' .. id .. ' '
end
if ARGV[5] ~= '' then
  redis.call('SET', l, place .. message, 'PX', ARGV[5])
  -- Webhooks may report again that the cache has nothing. See APPEND.
  if not ch or ch.q then
    if ch then redis.call('HDEL', h, 'q') end
    note(meta, w, t, life, ARGV[2], 'e', 'p', 'n', 0)
  end
end
if ARGV[7] == '1' then
  note(meta, w, t, life, ARGV[2], 'e', 'c', 'n', ch and ch.n or 0, 'd', message)
end
return 'OK'
`,
);

/**
 * Reads a page of the history.
 *
 * KEYS meta, state, history. ARGV epoch, after, until, most entries, most bytes.
 * Returns nothing if the history does not reach back; else how far the page reaches,
 * and offset and message of each entry.
 */
export const READ: Script = script(
  "read",
  TIME,
  CHANNEL,
  `
local meta, h, s = KEYS[1], KEYS[2], KEYS[3]
local after, limit = tonumber(ARGV[2]), tonumber(ARGV[4])
local ch = channel(h, redis.call('HGET', meta, 'tok'))
if not ch then return {} end
local t = now()
local reach = reachesBackTo(s, ch, t)
if after < reach or not isKnown(ch, ARGV[1], after) then return {} end
local page = { ARGV[3] }
if not isKept(ch, t) then return page end
local entries = redis.call('XRANGE', s, '(' .. text(after), ARGV[3], 'COUNT', limit)
local bytes = 0
for i, entry in ipairs(entries) do
  local offset = entry[1]:match('^%d+')
  page[#page + 1] = offset
  page[#page + 1] = entry[2][6]
  bytes = bytes + #entry[2][6]
  if bytes > tonumber(ARGV[5]) or i == limit then
    page[1] = offset
    break
  end
end
return page
`,
);

/** KEYS last. Returns the last event, or nothing, and how long it is kept. */
export const LAST: Script = script(
  "last",
  "return { redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]) }",
);

/** Publishes to who listens at this moment. KEYS topic. ARGV text. Returns how many do. */
export const SAY: Script = script(
  "say",
  `return redis.call('SPUBLISH', KEYS[1], ARGV[1])`,
);

/** All scripts of messages, for a connection to load. */
export const MESSAGE_SCRIPTS: readonly Script[] = [
  PUBLISH,
  READ,
  LAST,
  SAY,
];
