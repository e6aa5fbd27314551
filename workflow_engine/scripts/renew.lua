-- Renew a lock, or take it again if it is gone and nobody holds it (Redis was wiped or restarted).
--
-- KEYS  1 lock
-- ARGV  1 claim   2 expiry, ms
--
-- Answers 1 if the lock is ours, 0 if somebody else holds it. Safe to run again.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
