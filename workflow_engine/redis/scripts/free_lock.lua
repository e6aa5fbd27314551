-- Give up a lock on a server that has no contexts.
--
-- KEYS  1 lock
-- ARGV  1 claim
--
-- Returns 1 if the lock was held by this claim, else 0. Safe to run again.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
