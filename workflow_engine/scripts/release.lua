-- Give up a lock.
--
-- KEYS  1 lock
-- ARGV  1 claim
--
-- Answers 1 if the lock was ours, else 0. Safe to run again.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
