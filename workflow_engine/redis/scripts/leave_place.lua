-- Leave one of several nodes that may run at the same time, after its commit: add to the cached context what the
-- commit has changed, free the node's place, and send the messages that follow.
--
-- KEYS  1 context   2 contention flag   3 the node's run   4 nodes in hand   5 nodes turned away
--       6 the node's place; left out if it is kept on servers of its own   7.. a queue for each message
-- ARGV  1 claim   2 node   3 seq entered with   4 seq committed   5 context expiry, ms
--       6 ms after which a node in hand that was not entered is overdue   7 what the keys of places begin with
--       8 JSON {hand: nodes in hand after the commit, between: {seq: node} of commits after the one entered with,
--               state: the number of values that belong to the latest commit}
--       9.. the messages; then field, value, … of the latest commit; then those of this commit alone
--
-- Nodes leave in any order. Outputs and the path belong to one commit, so each is written when its node leaves.
-- What belongs to the latest commit (the walk, the fence, the variables) is written by the highest seq. Until a
-- sibling that committed below it has left too, its seq is a gap.
-- A context that is behind the seq we entered with has been restored or removed, and one that is not whole has lost
-- a part: it is deleted, never patched and never created, and the next node rebuilds it from Postgres.
-- Returns {1 if the place was here and held by this claim, 1 if a waiter has met it, 1 if the context is up to date,
-- nodes turned away, overdue nodes}. Safe to run again, except that waiters are reported once.

local node, committed, given = ARGV[2], tonumber(ARGV[4]), cjson.decode(ARGV[8])
local first_state = 9 + math.max(#KEYS - 6, 0)
local first_own = first_state + given.state

local function write(first, last)
  local added = 0
  for from = first, last, 1000 do
    if from <= last then
      added = added + redis.call('HSET', KEYS[1], unpack(ARGV, from, math.min(from + 999, last)))
    end
  end
  return added
end

local updated, is_latest = 0, true
local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'gaps')
local seq, size = tonumber(fixed[1]), tonumber(fixed[2])
if seq and fixed[3] and seq >= tonumber(ARGV[3]) and redis.call('HLEN', KEYS[1]) == size then
  local gaps, added = cjson.decode(fixed[3]), 0
  if committed > seq then
    for missed, sibling in pairs(given.between) do
      if tonumber(missed) > seq then gaps[missed] = sibling end
    end
    added = redis.call('HSET', KEYS[1], 'seq', ARGV[4]) + write(first_state, #ARGV)
  else
    is_latest = committed == seq
    if gaps[ARGV[4]] then
      gaps[ARGV[4]] = nil
      added = write(first_own, #ARGV)
    end
  end
  redis.call('HSET', KEYS[1], 'size', size + added, 'gaps', cjson.encode(gaps))
  updated = 1
else
  redis.call('DEL', KEYS[1])
end

local ours = KEYS[6] and redis.call('GET', KEYS[6]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[6])
end
if redis.call('HGET', KEYS[3], 'mark') == ARGV[1] then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[4], node)
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local overdue = {}
if is_latest then
  local in_hand = {}
  for _, each in ipairs(given.hand) do
    in_hand[each] = true
    redis.call('ZADD', KEYS[4], 'NX', now, each)
  end
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[6]))) do
    if KEYS[6] and redis.call('EXISTS', ARGV[7] .. each) == 1 then
      -- it is running
    elseif in_hand[each] then
      redis.call('ZADD', KEYS[4], now, each)
      overdue[#overdue + 1] = each
    else
      redis.call('ZREM', KEYS[4], each)
    end
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[5])
end

for i = 7, #KEYS do
  redis.call('LPUSH', KEYS[i], ARGV[9 + i - 7])
end
local turned_away = redis.call('SMEMBERS', KEYS[5])
redis.call('DEL', KEYS[5])
return {ours and 1 or 0, redis.call('DEL', KEYS[2]), updated, turned_away, overdue}
