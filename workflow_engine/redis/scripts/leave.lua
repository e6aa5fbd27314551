-- Leave a node after its commit: bring the cached context up to the journal, unlock, send the next message.
--
-- KEYS  1 context   2 contention flag   3 lock; left out if it is kept on servers of its own   4 queue, if it is here
-- ARGV  1 claim   2 seq entered with   3 seq committed   4 message for the queue   5.. field, value, …
--
-- A context that is not at the seq we entered with has been rebuilt, restored or removed, and one that is not
-- whole has lost a part: it is deleted, never patched and never created, and the next node rebuilds it from
-- Postgres.
-- Returns {1 if the lock was here and held by this claim, 1 if a waiter has met it, 1 if the context was brought
-- up to date; else 0}. Safe to run again, except that contention is reported once; a message that is sent twice
-- does no harm.

local updated = 0
local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'mark')
local seq = fixed[1]
local whole = redis.call('HLEN', KEYS[1]) - (fixed[3] and 1 or 0) == tonumber(fixed[2])
if whole and seq == ARGV[3] then
  updated = 1
elseif whole and seq == ARGV[2] then
  redis.call('HDEL', KEYS[1], 'mark')
  local added = redis.call('HSET', KEYS[1], 'seq', ARGV[3], unpack(ARGV, 5, math.min(1004, #ARGV)))
  for first = 1005, #ARGV, 1000 do
    added = added + redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
  redis.call('HSET', KEYS[1], 'size', fixed[2] + added)
  updated = 1
else
  redis.call('DEL', KEYS[1])
end
local ours = KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[3])
end
if KEYS[4] then
  redis.call('LPUSH', KEYS[4], ARGV[4])
end
return {ours and 1 or 0, redis.call('DEL', KEYS[2]), updated}
