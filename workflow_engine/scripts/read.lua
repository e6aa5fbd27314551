-- Read further fields of a context while its node runs.
--
-- KEYS  1 context
-- ARGV  1 seq entered with   2.. fields
--
-- Answers the fields' values, or false if the context is not whole or not at that seq any more.

local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'mark')
local fields = redis.call('HLEN', KEYS[1]) - (fixed[3] and 1 or 0)
if fixed[1] ~= ARGV[1] or fields ~= tonumber(fixed[2]) then
  return false
end
return redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
