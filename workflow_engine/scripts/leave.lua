-- Leave a node after its commit: bring the cached context up to the journal, and unlock.
--
-- KEYS  1 lock   2 context
-- ARGV  1 claim   2 context expiry, ms   3 seq entered with   4 seq committed   5.. field, value, …
--
-- A context that is not at the seq we entered with was rebuilt, restored or removed meanwhile, one that is
-- not whole has lost a part: it is deleted, never patched and never created, and the next node rebuilds it
-- from Postgres.
-- Answers 1 if the context was brought up to date, 0 if not. Safe to run again.

local updated = 0
local fixed = redis.call('HMGET', KEYS[2], 'seq', 'size', 'mark')
local seq = fixed[1]
local whole = redis.call('HLEN', KEYS[2]) - (fixed[3] and 1 or 0) == tonumber(fixed[2])
if whole and seq == ARGV[4] then
  updated = 1
elseif whole and seq == ARGV[3] then
  redis.call('HDEL', KEYS[2], 'mark')
  redis.call('HSET', KEYS[2], 'seq', ARGV[4], unpack(ARGV, 5))
  redis.call('HSET', KEYS[2], 'size', redis.call('HLEN', KEYS[2]))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  updated = 1
else
  redis.call('DEL', KEYS[2])
end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return updated
