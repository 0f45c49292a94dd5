/**
 * Everything that happens in Redis, as scripts: each is one atomic step, and all keys
 * of a step are of one bucket. Times are milliseconds of Redis' own clock, so servers
 * need not agree about the time.
 *
 * A script that fails half-way is not rolled back: so what can fail comes first.
 *
 * This file has what a script is, and the parts that scripts of several files share.
 *
 * @module
 */

import { createHash } from "node:crypto";

/** A script of Redis. */
export interface Script {
  /** What it is called in errors. */
  readonly name: string;
  readonly text: string;
  /** SHA-1 of the text, by which Redis knows it. */
  readonly digest: string;
  /** Whether its callers bound how many calls wait for an answer. */
  readonly isPaced?: boolean | undefined;
}

/** Makes a script of parts of its text. */
export function script(name: string, ...parts: string[]): Script {
  const text = parts.map((part) => part.trim()).join("\n");
  const digest = createHash("sha1").update(text).digest("hex");
  return { name, text, digest };
}

/** A script whose callers bound how many calls wait for an answer. */
export function paced(unbounded: Script): Script {
  return { ...unbounded, isPaced: true };
}

// ---- Shared parts -----------------------------------------------------------

/** The time, and numbers as text. */
export const TIME = `
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000), t[1] .. '-' .. t[2]
end
-- Lua writes large numbers with an exponent.
local function text(n) return string.format('%.0f', n) end
`;

/**
 * How far a channel's offsets jump when another run of Redis goes on with them: that
 * one may not know the last of them, and must not give them out again.
 */
export const JUMP = 1_000_000_000;

/** The state of a channel, its history, its topic, and notes for webhooks. */
export const CHANNEL = `
local GAP = ${JUMP}
local MAX_GAPS = 8

-- A channel's state; nil if nobody is there and nothing is kept.
local function channel(h, token)
  if not token then return nil end
  local v = redis.call('HMGET', h, 'e', 'k', 'o', 'n', 'u', 'r', 'a', 'l', 'g', 'm', 'z', 'x', 'y', 'q')
  if not v[1] then return nil end
  local ch = {
    e = v[1], o = tonumber(v[3]), n = tonumber(v[4]) or 0, u = tonumber(v[5]) or 0,
    r = tonumber(v[6]) or 0, a = tonumber(v[7]), l = tonumber(v[8]) or 0,
    g = v[9] or '', m = tonumber(v[10]) or 0, z = v[11] or '0',
    x = tonumber(v[12]) or 0, y = tonumber(v[13]) or 0,
    q = v[14],
  }
  if v[2] ~= token then
    local to = ch.o + GAP
    ch.g = ch.g .. text(ch.o) .. '-' .. text(to) .. ','
    local _, gaps = ch.g:gsub(',', '')
    if gaps > MAX_GAPS then
      ch.m = tonumber(ch.g:match('%-(%d+),'))
      ch.g = ch.g:gsub('^[^,]*,', '')
    end
    ch.o = to
    redis.call('HSET', h, 'k', token, 'o', text(to), 'g', ch.g, 'm', text(ch.m))
  end
  return ch
end

-- Publishes a message under the last offset.
local function say(topic, ch, message)
  redis.call('SPUBLISH', topic, ch.e .. ' ' .. text(ch.o) .. ' ' .. message)
end

-- Publishes a message under the next offset, to a channel of which nothing else changes.
local function announce(h, topic, ch, message)
  ch.o = ch.o + 1
  redis.call('HSET', h, 'o', text(ch.o))
  say(topic, ch, message)
end

-- Whether a client may come back for what is published now. Servers may differ in how
-- long they let a client be away: the longest time holds, and for all of them.
local function isKept(ch, t)
  return ch.x > 0 and (ch.r > 0 or (ch.a ~= nil and t - ch.a <= ch.x))
end

-- The offset after which the history has everything that is not too old.
local function reachesBackTo(s, ch, t)
  if not isKept(ch, t) then return ch.l end
  local age = ch.x
  local last = redis.call('XREVRANGE', s, '+', '-', 'COUNT', 1)[1]
  if not last or t - tonumber(last[2][4]) > age then return ch.l end
  local function first(from)
    local entry = redis.call('XRANGE', s, from, '+', 'COUNT', 1)[1]
    return tonumber(entry[1]:match('^%d+')), entry[2]
  end
  local low, entry = first('-')
  if t - tonumber(entry[4]) <= age then return tonumber(entry[2]) end
  -- The entry at low is too old, and one at or before high is not.
  local high = tonumber(last[1]:match('^%d+'))
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local id, fields = first(text(middle))
    if t - tonumber(fields[4]) > age then low = id else high = middle end
  end
  local id, oldest = first(text(high))
  redis.call('XTRIM', s, 'MINID', text(id))
  return tonumber(oldest[2])
end

-- Whether a position is one that this Redis has given out, and not forgotten.
local function isKnown(ch, epoch, offset)
  if epoch ~= ch.e or offset > ch.o or offset < ch.m then return false end
  for from, to in ch.g:gmatch('(%d+)-(%d+),') do
    if offset > tonumber(from) and offset < tonumber(to) then return false end
  end
  return true
end

-- Notes a transition for webhooks, while somebody wants them; channels that begin with
-- # are the servers' own.
local JOURNAL_ENTRIES = 10000
local function note(meta, w, t, life, name, ...)
  if name:find(' #', 1, true) then return end
  if (tonumber(redis.call('HGET', meta, 'w')) or 0) <= t then return end
  redis.call('XADD', w, 'MAXLEN', '~', JOURNAL_ENTRIES, '*', 't', text(t), 'c', name, ...)
  redis.call('PEXPIRE', w, life)
end
`;

/** Whether a connection may change anything. */
export const FENCE = `
-- Why a connection may not change anything; nil if it may.
local function refusal(own, token, generation)
  if not token or not own or own == 'dead' then return 'DEAD' end
  if own ~= generation then return 'STALE' end
end
`;
