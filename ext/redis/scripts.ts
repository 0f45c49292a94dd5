/**
 * Everything that happens in Redis, as scripts: each is one atomic step, and all keys
 * of a step are of one bucket. Times are milliseconds of Redis' own clock, so servers
 * need not agree about the time.
 *
 * A script that fails half-way is not rolled back: so what can fail comes first.
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

export function script(name: string, ...parts: string[]): Script {
  const text = parts.map((part) => part.trim()).join("\n");
  const digest = createHash("sha1").update(text).digest("hex");
  return { name, text, digest };
}

/** A script whose callers bound how many calls wait for an answer. */
function paced(unbounded: Script): Script {
  return { ...unbounded, isPaced: true };
}

// ---- Shared parts -----------------------------------------------------------

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

const CHANNEL = `
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

const DEPARTURES = `
-- After a flush no server knows whom another has announced: each departure is noted, so
-- that it is announced once.
local ANNOUNCED_MS = 600000
local function isNewDeparture(announced, name, user)
  local isNew = redis.call('HSETNX', announced, name .. '\\n' .. user, 1) == 1
  redis.call('PEXPIRE', announced, ANNOUNCED_MS)
  return isNew
end
`;

const FENCE = `
-- Why a connection may not change anything; nil if it may.
local function refusal(own, token, generation)
  if not token or not own or own == 'dead' then return 'DEAD' end
  if own ~= generation then return 'STALE' end
end
`;

// ---- Incarnations -----------------------------------------------------------

/**
 * The first call of a connection in a bucket. Older connections are stale from then
 * on, so that what waits in them cannot happen later.
 *
 * KEYS meta, holdings. ARGV generation, run id, fresh token, deadline, the birth that
 * the server has found here before or nothing, life.
 * Returns OK, DEAD, LATE or STALE; for how long Redis has known nothing of what was
 * there before, -1 if it knows; the birth of what it knows; and the time.
 */
export const HELLO: Script = script(
  "hello",
  TIME,
  `
local meta, n = KEYS[1], KEYS[2]
local t = now()
if t > tonumber(ARGV[4]) then return { 'LATE' } end
local own = redis.call('HGET', n, '')
if own == 'dead' then return { 'DEAD' } end
if own and tonumber(own) > tonumber(ARGV[1]) then return { 'STALE' } end
local v = redis.call('HMGET', meta, 'run', 'tok', 'flushed', 'born', 'at')
local flushed, born, at = tonumber(v[3]), v[4], tonumber(v[5])
if v[1] ~= ARGV[2] then redis.call('HSET', meta, 'run', ARGV[2], 'tok', ARGV[3]) end
if not born then
  born, at = ARGV[3], t
  redis.call('HSET', meta, 'born', born, 'at', text(at))
end
-- Perhaps a new server came first, which cannot know that there was something.
if ARGV[5] ~= '' and ARGV[5] ~= born and not flushed then
  flushed = at
  redis.call('HSET', meta, 'flushed', text(at))
end
redis.call('HSET', n, '', ARGV[1])
redis.call('PEXPIRE', meta, ARGV[6])
redis.call('PEXPIRE', n, ARGV[6])
return { 'OK', flushed and t - flushed or -1, born, text(t) }
`,
);

/**
 * Renews a lease, and finds the leases that have ended. If nobody has renewed one for
 * a while, Redis was away for all servers: then each gets some time to come back.
 *
 * KEYS leases, lapsed. ARGV incarnation, lease, whether it is the first time, life, and
 * incarnations that nobody is any more.
 * Returns whether the incarnation lives, the time, and the incarnations whose
 * holdings are to be released.
 */
export const BEAT: Script = script(
  "beat",
  TIME,
  `
local nodes, dead = KEYS[1], KEYS[2]
local t, lease = now(), tonumber(ARGV[2])
local RETURN_MS = 3000
-- The member without a name is the last renewal.
local last = tonumber(redis.call('ZSCORE', nodes, ''))
if last and t - last > lease / 2 then
  local ends = text(t + math.min(lease, RETURN_MS))
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. ends)) do
    redis.call('ZADD', nodes, ends, one)
  end
end
redis.call('ZADD', nodes, text(t), '')
redis.call('PEXPIRE', nodes, ARGV[4])
for _, one in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. text(t), 'LIMIT', 0, 100)) do
  redis.call('ZREM', nodes, one)
  redis.call('ZADD', dead, text(t), one)
  redis.call('PEXPIRE', dead, ARGV[4])
end
for i = 5, #ARGV do
  redis.call('ZREM', nodes, ARGV[i])
  redis.call('ZADD', dead, text(t), ARGV[i])
  redis.call('PEXPIRE', dead, ARGV[4])
end
local alive = 0
if ARGV[3] == '1' or redis.call('ZSCORE', nodes, ARGV[1]) then
  alive = 1
  redis.call('ZADD', nodes, text(t + lease), ARGV[1])
end
return { alive, text(t), unpack(redis.call('ZRANGE', dead, 0, 99)) }
`,
);

/**
 * Finds out whether Redis still knows an incarnation: of several masters, one may have
 * been flushed.
 *
 * KEYS meta, holdings. ARGV generation. Returns OK, DEAD or STALE, and the time.
 */
export const PROBE: Script = script(
  "probe",
  TIME,
  FENCE,
  `
local own, token = redis.call('HGET', KEYS[2], ''), redis.call('HGET', KEYS[1], 'tok')
return { refusal(own, token, ARGV[1]) or 'OK', text((now())) }
`,
);

/** Ends a lease that is needed no more. KEYS leases, lapsed. ARGV incarnation. */
export const QUIT: Script = script(
  "quit",
  `
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZCARD', KEYS[1]) == 1 then redis.call('ZREM', KEYS[1], '') end
return 1
`,
);

/**
 * Reads some of what an incarnation holds of a bucket. KEYS holdings. ARGV cursor, how
 * many. Returns the next cursor, and fields.
 */
export const HOLDINGS: Script = script(
  "holdings",
  `
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local fields = {}
for i = 1, #page[2], 2 do
  if page[2][i] ~= '' then fields[#fields + 1] = page[2][i] end
end
return { page[1], fields }
`,
);

/**
 * Forbids an incarnation to change a bucket from now on, and reads some of what it
 * holds.
 *
 * KEYS holdings. ARGV how long that is remembered, how many to read, life of holdings
 * that are yet to be released.
 * Returns fields; none when nothing is held any more.
 */
export const FENCE_OFF: Script = script(
  "fence",
  `
local n = KEYS[1]
local fields, cursor = {}, '0'
-- What was released leaves a long way without fields at the beginning.
repeat
  local page = redis.call('HSCAN', n, cursor, 'COUNT', ARGV[2])
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if page[2][i] ~= '' then fields[#fields + 1] = page[2][i] end
  end
until #fields > 0 or cursor == '0'
redis.call('HSET', n, '', 'dead')
redis.call('PEXPIRE', n, #fields > 0 and ARGV[3] or ARGV[1])
return fields
`,
);

// ---- Membership -------------------------------------------------------------

/**
 * States what an incarnation holds on a channel: connections of one user, or of
 * nobody in particular, and how many connections of all users can recover. The
 * figures are absolute, so join, leave, registration and release are this one step,
 * and a repeat changes nothing.
 *
 * KEYS meta, holdings, state, users, members, history, last, occupied, journal,
 * topic, announced departures, and of the channel to which the first and last
 * connection are announced: state, topic.
 * ARGV 1 generation or `reap`; 2 channel; 3 user or nothing; 4 connections;
 * 5 recovering; 6 `join`, `leave`, `state`, or `quiet` to state after a flush what
 * webhooks have reported before; 7 user_info; 8 most users; 9 announcement of the member; 10 announcement of the
 * first or last connection; 11 age of the history, 0 for none; 12 `since`, `rewind`
 * or nothing for `join`, else perhaps `members`; 13 epoch; 14 offset; 15 rewind; 16 life;
 * 17 most entries of the history.
 * Returns OK, DEAD, STALE or FULL; epoch, offset; subscriptions, users; `+`, `-` or
 * nothing; `o`, `v` or nothing; whether connections have changed; the last loggable
 * offset; that of the last order to terminate; and for `join`: members, last event, how long it is kept, whether the
 * client recovers, and from where.
 */
export const HOLD: Script = paced(script(
  "hold",
  TIME,
  CHANNEL,
  DEPARTURES,
  FENCE,
  `
local meta, n, h, c, m, s, l, index, w, topic, announced = unpack(KEYS, 1, 11)
local name, user, kind, age, life = ARGV[2], ARGV[3], ARGV[6], tonumber(ARGV[11]), ARGV[16]
local token, flushed = unpack(redis.call('HMGET', meta, 'tok', 'flushed'))
local field, recoveringField = 'c' .. name .. '\\n' .. user, 'r' .. name
local held = redis.call('HMGET', n, '', field, recoveringField)
if ARGV[1] ~= 'reap' then
  local code = refusal(held[1], token, ARGV[1])
  if code then return { code } end
elseif not token then
  return { 'DEAD' }
end
local t, stamp = now()
local old, oldRecovering = tonumber(held[2]) or 0, tonumber(held[3]) or 0
local count, recovering = tonumber(ARGV[4]), tonumber(ARGV[5])
if kind == 'leave' then
  -- It may follow a join that was not carried out.
  count, recovering = math.min(count, old), math.min(recovering, oldRecovering)
end
local ch = channel(h, token)
if not ch then
  if old > 0 or oldRecovering > 0 then redis.call('HDEL', n, field, recoveringField) end
  old, oldRecovering = 0, 0
  if count == 0 and recovering == 0 then
    return { 'OK', '', '0', 0, 0, '', '', 0, '0', '0' }
  end
end
local was, users = 0, ch and ch.u or 0
if user ~= '' and ch then was = tonumber(redis.call('HGET', c, user)) or 0 end
local more, moreRecovering = count - old, recovering - oldRecovering
if kind == 'join' and user ~= '' and was == 0 and more > 0 and users >= tonumber(ARGV[8]) then
  return { 'FULL' }
end
-- What is made now has no expiry yet, and neither has what was kept for its age.
local isNew = not ch or (ch.n <= 0 and ch.r <= 0)
local changes = {}
if not ch then
  ch = { e = token .. '-' .. stamp, o = 1, n = 0, u = 0, r = 0, l = 0, g = '', m = 0, z = '0', x = 0, y = 0 }
  redis.call('DEL', c, m, s)
  changes = { 'e', ch.e, 'k', token, 'l', 0 }
elseif moreRecovering ~= 0 and not isKept(ch, t) then
  redis.call('DEL', s)
end

local stated, gone = {}, {}
local function hold(name, count)
  if count > 0 then stated[#stated + 1], stated[#stated + 2] = name, count
  else gone[#gone + 1] = name end
end
if more ~= 0 then hold(field, count) end
if moreRecovering ~= 0 then hold(recoveringField, recovering) end
if #stated > 0 then redis.call('HSET', n, unpack(stated)) end
if #gone > 0 then redis.call('HDEL', n, unpack(gone)) end

local member, occupancy = '', ''
if user ~= '' and more ~= 0 then
  local is = was + more
  if is > 0 then redis.call('HSET', c, user, is) else redis.call('HDEL', c, user) end
  if was == 0 and is > 0 then
    member, ch.u = '+', ch.u + 1
  elseif is <= 0 then
    member, ch.u = '-', ch.u - 1
    redis.call('HDEL', m, user)
  end
end
if user ~= '' and count > 0 and (member == '+' or kind == 'quiet') then
  redis.call('HSET', m, user, ARGV[7])
end
ch.n = ch.n + more
if more > 0 and ch.n == more then
  occupancy = 'o'
  redis.call('ZADD', index, 0, name)
elseif more < 0 and ch.n <= 0 then
  occupancy = 'v'
  redis.call('ZREM', index, name)
end
ch.r = ch.r + moreRecovering
if moreRecovering ~= 0 then
  if ch.r <= 0 then ch.a = t end
  if recovering > 0 then
    ch.x, ch.y = math.max(ch.x, age), math.max(ch.y, tonumber(ARGV[17]))
  end
end

local isEmpty = ch.n <= 0 and ch.r <= 0
local isOver = isEmpty and not isKept(ch, t)
-- Servers that know of a member take no notice of an arrival. After a flush there may be
-- others, which have to hear of it in its order.
local isSaid = member == '+' or (member == '-' and kind ~= 'quiet')
if isSaid then ch.o = ch.o + 1 end
if isOver then
  redis.call('DEL', h, c, m, s)
else
  if isEmpty then
    -- Nobody is there, but a client may come back.
    ch.n, ch.u, ch.r = 0, 0, 0
    redis.call('DEL', c, m)
  end
  for _, name in ipairs({ 'o', 'n', 'u', 'r', 'a', 'x', 'y' }) do
    if ch[name] then changes[#changes + 1], changes[#changes + 2] = name, text(ch[name]) end
  end
  redis.call('HSET', h, unpack(changes))
  -- Whoever holds something states it again long before its life ends.
  local isAudit = kind ~= 'join' and kind ~= 'leave'
  if isEmpty then
    redis.call('PEXPIRE', h, text(ch.x))
    redis.call('PEXPIRE', s, text(ch.x))
  elseif isNew or isAudit then
    redis.call('PEXPIRE', h, life)
  end
  if user ~= '' and (isAudit or (member == '+' and ch.u == 1)) then
    redis.call('PEXPIRE', c, life)
    redis.call('PEXPIRE', m, life)
  end
  if ch.n > 0 and isAudit then redis.call('ZADD', index, 0, name) end
  if ch.n > 0 and (isAudit or occupancy == 'o') then redis.call('PEXPIRE', index, life) end
end
if isSaid then say(topic, ch, ARGV[9]) end
if kind ~= 'quiet' then
  local function tell(event)
    note(meta, w, t, life, name, 'e', event, 'u', user, 'n', ch.n)
  end
  if occupancy == 'o' then tell('o') end
  if member ~= '' then tell(member) end
  if occupancy == 'v' then tell('v') end
  if flushed and t - flushed < ANNOUNCED_MS then
    if member == '-' then isNewDeparture(announced, name, user) end
    if occupancy == 'v' then isNewDeparture(announced, name, '') end
  end
  if occupancy ~= '' and KEYS[12] and ARGV[10] ~= '' then
    local other = channel(KEYS[12], token)
    if other then announce(KEYS[12], KEYS[13], other, ARGV[10]) end
  end
end

local answer = {
  'OK', ch.e, text(ch.o), ch.n, ch.u, member, occupancy, more ~= 0 and 1 or 0, text(ch.l), ch.z,
}
if kind == 'join' or ARGV[12] == 'members' then
  answer[11] = user ~= '' and redis.call('HGETALL', m) or {}
end
if kind ~= 'join' then return answer end
answer[12] = redis.call('GET', l) or ''
answer[13] = answer[12] ~= '' and redis.call('PTTL', l) or 0
answer[14], answer[15] = '', ''
if ARGV[12] ~= '' and age > 0 then
  local from, recovers = ch.o, '0'
  local since, rewind = tonumber(ARGV[14]), tonumber(ARGV[15])
  local isWanted = ARGV[12] == 'since' or rewind > 0
  local reach = isWanted and reachesBackTo(s, ch, t)
  if ARGV[12] == 'since' and since >= reach and isKnown(ch, ARGV[13], since) then
    from, recovers = since, '1'
  elseif rewind > 0 and isKept(ch, t) then
    local entries = redis.call('XREVRANGE', s, '+', text(reach + 1), 'COUNT', rewind)
    if #entries > 0 then from = tonumber(entries[#entries][2][2]) end
  end
  answer[14], answer[15] = recovers, text(from)
end
return answer
`,
));

/**
 * Announces a departure that a flushed Redis knows nothing of: once, whichever
 * server says so first, and only if it is true.
 *
 * KEYS meta, state, users, journal, announced, topic, and state and topic of the
 * other channel. ARGV channel, user or nothing, announcements, life. Returns how many are still subscribed if it was announced, else -1.
 */
export const DEPART: Script = script(
  "depart",
  TIME,
  CHANNEL,
  DEPARTURES,
  `
local meta, h, c, w, announced, topic = unpack(KEYS, 1, 6)
local name, user, life = ARGV[1], ARGV[2], ARGV[5]
local token = redis.call('HGET', meta, 'tok')
if not token then return -1 end
local ch = channel(h, token)
if user ~= '' then
  if redis.call('HEXISTS', c, user) == 1 then return -1 end
elseif ch and ch.n > 0 then
  return -1
end
if not isNewDeparture(announced, name, user) then return -1 end
local t = now()
if user ~= '' then
  if ch then announce(h, topic, ch, ARGV[3]) end
  note(meta, w, t, life, name, 'e', '-', 'u', user, 'n', ch and ch.n or 0)
else
  note(meta, w, t, life, name, 'e', 'v', 'u', '', 'n', 0)
  if KEYS[7] and ARGV[4] ~= '' then
    local other = channel(KEYS[7], token)
    if other then announce(KEYS[7], KEYS[8], other, ARGV[4]) end
  end
end
return ch and ch.n or 0
`,
);

// ---- Messages ---------------------------------------------------------------

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

// ---- Queries ----------------------------------------------------------------

/** KEYS members. Returns users and their `user_info`. */
export const MEMBERS: Script = script(
  "members",
  "return redis.call('HGETALL', KEYS[1])",
);

/** KEYS last. Returns the last event, or nothing, and how long it is kept. */
export const LAST: Script = script(
  "last",
  "return { redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]) }",
);

/** KEYS states. Returns subscriptions and users of each. */
export const COUNTS: Script = script(
  "counts",
  `
local counts = {}
for _, h in ipairs(KEYS) do
  local v = redis.call('HMGET', h, 'n', 'u')
  counts[#counts + 1] = tonumber(v[1]) or 0
  counts[#counts + 1] = tonumber(v[2]) or 0
end
return counts
`,
);

/**
 * A page of the occupied channels. KEYS occupied. ARGV prefix, the last name of the
 * page before or nothing, most names.
 */
export const OCCUPIED: Script = script(
  "occupied",
  `
local from = ARGV[2] ~= '' and '(' .. ARGV[2] or '[' .. ARGV[1]
-- No name has this byte.
local to = '[' .. ARGV[1] .. string.char(255)
return redis.call('ZRANGE', KEYS[1], from, to, 'BYLEX', 'LIMIT', 0, ARGV[3])
`,
);

// ---- Sessions ---------------------------------------------------------------

/**
 * Makes a server the owner of a session. A call that was long on its way gives way to
 * one that was made after it, and an older connection to a newer one: its client has
 * gone on elsewhere.
 *
 * KEYS state, known, away, meta. ARGV 1 server; 2 start of the topics of servers;
 * 3 name of the session; 4 its digest; 5 life of a session with an owner; 6 how long
 * after a flush an unknown session counts as forgotten; 7 how long it is known that
 * there was a session; 8 when the call was made; 9 after how long it gives way; 10 for
 * how long the client's connection has been there; 11 by how much it is older than
 * another to which it gives way.
 * Returns the term of the owner, which grows from owner to owner; then 1 and the
 * state, 2 if it was forgotten, 0 if it is new, 3 if another server has it.
 */
export const TAKE: Script = script(
  "take",
  TIME,
  `
local x, known, away = KEYS[1], KEYS[2], KEYS[3]
local v = redis.call('HMGET', x, 's', 'o', 'n', 'c', 'b')
local t = now()
local calledAt = math.min(t, tonumber(ARGV[8]))
local begunAt = calledAt - tonumber(ARGV[10])
local term = text(math.max(t, (tonumber(v[3]) or 0) + 1))
if v[2] and v[2] ~= ARGV[1] then
  local isLate = t - calledAt > tonumber(ARGV[9])
  if isLate and (tonumber(v[4]) or 0) > calledAt then return { v[3], 3 } end
  if (tonumber(v[5]) or 0) - begunAt > tonumber(ARGV[11]) then return { v[3], 3 } end
  redis.call('SPUBLISH', ARGV[2] .. v[2], term .. ' ' .. ARGV[3])
end
redis.call('HSET', x, 'o', ARGV[1], 'n', term, 'c', text(calledAt), 'b', text(begunAt))
redis.call('PEXPIRE', x, ARGV[5])
redis.call('ZREM', away, ARGV[3])
if v[1] then return { term, 1, v[1] } end
local keptAt = tonumber(redis.call('ZSCORE', known, ARGV[4]) or nil)
if keptAt and t - keptAt < tonumber(ARGV[7]) then return { term, 2 } end
local flushed = not v[2] and tonumber(redis.call('HGET', KEYS[4], 'flushed') or nil)
if flushed and t - flushed < tonumber(ARGV[6]) then return { term, 2 } end
return { term, 0 }
`,
);

/**
 * Keeps the state of a session.
 *
 * KEYS state, known, away. ARGV 1 server; 2 state; 3 whether its client is away;
 * 4 age; 5 life of a session with an owner; 6 how long it is known that there was a
 * session; 7 its name; 8 its digest; 9 most sessions that are known; 10 most whose
 * clients are away.
 * Returns the names of those that have been away for longest, above the most.
 */
export const KEEP: Script = script(
  "keep",
  TIME,
  `
local x, known, away = KEYS[1], KEYS[2], KEYS[3]
local owner = redis.call('HGET', x, 'o')
if owner ~= ARGV[1] and (owner or redis.call('EXISTS', x) == 1) then return {} end
local t = now()
local function above(key, most) return redis.call('ZCARD', key) - tonumber(most) end
if redis.call('ZADD', known, text(t), ARGV[8]) == 1 then
  redis.call('ZREMRANGEBYSCORE', known, '-inf', text(t - tonumber(ARGV[6])))
  local more = above(known, ARGV[9])
  if more > 0 then redis.call('ZPOPMIN', known, more) end
end
redis.call('PEXPIRE', known, ARGV[6])
if ARGV[3] == '0' then
  redis.call('HSET', x, 's', ARGV[2], 'o', ARGV[1])
  redis.call('PEXPIRE', x, ARGV[5])
  return {}
end
redis.call('HSET', x, 's', ARGV[2])
redis.call('HDEL', x, 'o')
redis.call('PEXPIRE', x, ARGV[4])
redis.call('ZADD', away, text(t), ARGV[7])
redis.call('ZREMRANGEBYSCORE', away, '-inf', text(t - tonumber(ARGV[4])))
redis.call('PEXPIRE', away, ARGV[4])
local more = above(away, ARGV[10])
if more <= 0 then return {} end
local names = {}
for i, item in ipairs(redis.call('ZPOPMIN', away, math.min(more, 100))) do
  if i % 2 == 1 then names[#names + 1] = item end
end
return names
`,
);

/** Drops sessions whose clients are away. KEYS states. */
export const DROP: Script = script(
  "drop",
  `
for _, x in ipairs(KEYS) do
  if not redis.call('HGET', x, 'o') then redis.call('DEL', x) end
end
return 1
`,
);

/** Drops what an incarnation held of a bucket, if that is nothing. KEYS holdings. */
export const RELEASE: Script = script(
  "release",
  `
if redis.call('HLEN', KEYS[1]) <= 1 then redis.call('DEL', KEYS[1]) end
return 1
`,
);

/** Forgets a session. KEYS state, known. ARGV server, digest. */
export const FORGET: Script = script(
  "forget",
  `
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
return redis.call('DEL', KEYS[1])
`,
);

/**
 * Has sessions live on that a server owns. KEYS states. ARGV server, life, and
 * whether their clients are away from now on, for the age in the last argument.
 */
export const TOUCH: Script = script(
  "touch",
  `
for _, x in ipairs(KEYS) do
  if redis.call('HGET', x, 'o') == ARGV[1] then
    redis.call('PEXPIRE', x, ARGV[2])
    if ARGV[3] == '1' then redis.call('HDEL', x, 'o') end
  end
end
return 1
`,
);

/** Publishes to who listens at this moment. KEYS topic. ARGV text. Returns how many do. */
export const SAY: Script = script(
  "say",
  `return redis.call('SPUBLISH', KEYS[1], ARGV[1])`,
);

/** All scripts, for a connection to load. */
export const SCRIPTS: readonly Script[] = [
  HELLO,
  BEAT,
  PROBE,
  QUIT,
  HOLDINGS,
  FENCE_OFF,
  RELEASE,
  HOLD,
  DEPART,
  PUBLISH,
  READ,
  MEMBERS,
  LAST,
  COUNTS,
  OCCUPIED,
  TAKE,
  KEEP,
  DROP,
  FORGET,
  TOUCH,
  SAY,
];
