/**
 * Who is on which channel, as scripts; see `script.ts` for what holds of all of them.
 *
 * @module
 */

import { CHANNEL, FENCE, paced, type Script, script, TIME } from "./script.ts";

// ---- Transitions ------------------------------------------------------------

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

// ---- Queries ----------------------------------------------------------------

/** KEYS members. Returns users and their `user_info`. */
export const MEMBERS: Script = script(
  "members",
  "return redis.call('HGETALL', KEYS[1])",
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

/** All scripts of membership, for a connection to load. */
export const MEMBERSHIP_SCRIPTS: readonly Script[] = [
  HOLD,
  DEPART,
  MEMBERS,
  COUNTS,
  OCCUPIED,
];
