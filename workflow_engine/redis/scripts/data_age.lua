-- Return the age of the data in Redis: the time since it was last empty, as far as this fleet has been asking.
--
-- KEYS  1 time of the first call
-- ARGV  1 expiry of that key, ms
--
-- Returns seconds since the first call that Redis still remembers. Safe to run again.

local now = tonumber(redis.call('TIME')[1])
local since = tonumber(redis.call('GET', KEYS[1]))
if not since then
  since = now
  redis.call('SET', KEYS[1], since)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return now - since
