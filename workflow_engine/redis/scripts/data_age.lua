-- Return the age of the data in Redis: the time since it was last empty, as far as this fleet has been asking.
--
-- KEYS  1 time of the first call
-- ARGV  1 expiry of that key, ms
--
-- Returns ms since the first call that Redis still remembers. Safe to run again.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = tonumber(redis.call('GET', KEYS[1]))
if not since then
  since = now
  redis.call('SET', KEYS[1], since)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return now - since
