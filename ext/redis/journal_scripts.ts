/**
 * What happens to the journal in Redis, as scripts; see `script.ts` for what holds
 * of all of them. The scripts of transitions and publishes write most of its entries.
 *
 * @module
 */

import { type Script, script, TIME } from "./script.ts";

// ---- Streams ----------------------------------------------------------------

const WANT_PART = `
-- Has entries written for a while; not in a bucket that no server has opened yet.
local function want(meta, t, ms)
  local till = tonumber(redis.call('HGET', meta, 'w')) or 0
  if till > t + ms / 2 or redis.call('HEXISTS', meta, 'tok') == 0 then return end
  redis.call('HSET', meta, 'w', text(t + ms))
end
`;

/** Has entries written from now on. KEYS meta. ARGV for how long. */
export const WANT: Script = script(
  "want",
  TIME,
  WANT_PART,
  `
want(KEYS[1], now(), tonumber(ARGV[1]))
return 1
`,
);

/**
 * Writes an entry that comes with no transition and no publish.
 *
 * KEYS meta, stream, state of the channel. ARGV 1 whether the server knows of a
 * reader; 2 channel; 3 \`m\` or \`n\`; 4 subscriptions; 5 most entries; 6 life.
 * Returns whether entries are wanted.
 */
export const APPEND: Script = script(
  "append",
  TIME,
  `
local meta, w, h = KEYS[1], KEYS[2], KEYS[3]
local t = now()
local till = tonumber(redis.call('HGET', meta, 'w')) or 0
if ARGV[1] ~= '1' and till <= t then return 0 end
redis.call('XADD', w, 'MAXLEN', '~', ARGV[5], '*', 't', text(t), 'c', ARGV[2], 'e', ARGV[3], 'u', '', 'n', ARGV[4])
redis.call('PEXPIRE', w, ARGV[6])
-- The next publish tells that the cache has something again. Without a subscriber each
-- of them does.
if ARGV[3] == 'm' and redis.call('EXISTS', h) == 1 then redis.call('HSET', h, 'q', 1) end
return 1
`,
);

/**
 * Reads a page of a stream, and has further entries written.
 *
 * KEYS stream, meta. ARGV 1 the last id that was read; 2 how many entries had been
 * written up to there, or nothing where that is not known; 3 most entries; 4 most
 * bytes; 5 for how long entries are wanted.
 * Returns the time; the last id and how many entries there were up to it; entries
 * that were dropped before they were read; whether there is more; the entries.
 */
export const FOLLOW: Script = script(
  "follow",
  TIME,
  WANT_PART,
  `
local w, meta, after, seen = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local limit = tonumber(ARGV[3])
local t = now()
want(meta, t, tonumber(ARGV[5]))
local entries = redis.call('XRANGE', w, '(' .. after, '+', 'COUNT', limit)
if #entries == 0 then
  -- A failover may have lost the entry that was read last: go on from where it ends.
  local last = seen and redis.call('XREVRANGE', w, '+', '-', 'COUNT', 1)[1]
  if last then
    local function parts(id) return tonumber(id:match('^%d+')), tonumber(id:match('%d+$')) end
    local ms, n = parts(last[1])
    local afterMs, afterN = parts(after)
    if ms < afterMs or (ms == afterMs and n < afterN) then after = last[1] end
  end
  return { text(t), after, ARGV[2], 0, 0, {} }
end
local page, bytes, more = {}, 0, #entries == limit
for i, entry in ipairs(entries) do
  page[i] = entry
  for _, field in ipairs(entry[2]) do bytes = bytes + #field end
  if bytes > tonumber(ARGV[4]) and i < #entries then
    more = true
    break
  end
end
local info, dropped = {}, 0
local fields = redis.call('XINFO', 'STREAM', w)
for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
if #redis.call('XRANGE', w, '-', after, 'COUNT', 1) == 0 then
  -- Everything there is was written since: what is missing was dropped.
  local before = info['entries-added'] - info['length']
  if seen and before > seen then dropped = before - seen end
  seen = before + #page
elseif seen then
  seen = seen + #page
elseif not more then
  seen = info['entries-added']
end
return { text(t), page[#page][1], seen and text(seen) or '', dropped, more and 1 or 0, page }
`,
);

// ---- Readers ----------------------------------------------------------------

/**
 * Becomes the reader of a name.
 *
 * KEYS reader. ARGV 1 server; 2 token of this claim; 3 lease; 4 for how long entries
 * were wanted already; 5 life.
 * Returns whether it is the reader now, the time, from when it reads, and whether it is
 * the first one.
 */
export const CLAIM: Script = script(
  "claim",
  TIME,
  `
local k = KEYS[1]
local t = now()
local v = redis.call('HMGET', k, 'o', 'u', 's')
if v[1] and v[1] ~= ARGV[1] and tonumber(v[2]) > t then return { 0 } end
local since = v[3] or text(t - tonumber(ARGV[4]))
redis.call('HSET', k, 'o', ARGV[1], 'f', ARGV[2], 'u', text(t + tonumber(ARGV[3])), 's', since)
redis.call('PEXPIRE', k, ARGV[5])
return { 1, text(t), since, v[3] and 0 or 1 }
`,
);

/**
 * Reads some of a reader's notes. KEYS reader. ARGV cursor, how many. Returns the
 * next cursor, names and notes.
 */
export const NOTES: Script = script(
  "notes",
  `
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
return { page[1], page[2] }
`,
);

/**
 * Stores notes, if the claim still holds, and renews it.
 *
 * KEYS reader. ARGV 1 token of the claim; 2 lease; 3 life; 4 how many names follow of
 * notes that are forgotten; these; then name and note of the others.
 * Returns the time, or nothing where the claim does not hold.
 */
export const COMMIT: Script = script(
  "commit",
  TIME,
  `
local k = KEYS[1]
if redis.call('HGET', k, 'f') ~= ARGV[1] then return '' end
local t = now()
local first = 5 + tonumber(ARGV[4])
for i = 5, first - 1 do redis.call('HDEL', k, ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', k, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', k, 'u', text(t + tonumber(ARGV[2])))
redis.call('PEXPIRE', k, ARGV[3])
return text(t)
`,
);

/** Ends a claim. KEYS reader. ARGV token of the claim. */
export const RELEASE: Script = script(
  "release",
  `
if redis.call('HGET', KEYS[1], 'f') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'o', 'f', 'u')
`,
);

/** All scripts of the journal, for a connection to load. */
export const JOURNAL_SCRIPTS: readonly Script[] = [
  WANT,
  APPEND,
  FOLLOW,
  CLAIM,
  NOTES,
  COMMIT,
  RELEASE,
];
