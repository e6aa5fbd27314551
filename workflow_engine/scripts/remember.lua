-- Tell for how long Redis has forgotten nothing, as far as this fleet has been asking.
--
-- KEYS  1 since when
-- ARGV  1 expiry of what is remembered, ms
--
-- Answers seconds since the first time that this was asked and not forgotten. Safe to run again.

local now = tonumber(redis.call('TIME')[1])
local since = tonumber(redis.call('GET', KEYS[1]))
if not since then
  since = now
  redis.call('SET', KEYS[1], since)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return now - since
