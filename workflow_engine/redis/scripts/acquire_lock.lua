-- Take a lock that no other claim holds: for the first time, to renew it, or again because Redis was wiped.
--
-- KEYS  1 lock
-- ARGV  1 claim   2 expiry, ms
--
-- Returns the claim that holds the lock now. Safe to run again.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
