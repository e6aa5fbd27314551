-- Put a context that was rebuilt from Postgres into the cache, whole, where several nodes share it.
--
-- KEYS  1 context   2 contention flag   3 the node's run   4 nodes in hand   5 nodes turned away
--       6 the node's place; left out if it is kept on servers of its own
-- ARGV  1 claim   2 context expiry, ms   3 seq of the context, or '' to replace a newer one   4.. field, value, …
--
-- A sibling may have left since Postgres was read: a newer context that is whole stays.
-- Returns 1, or 0 if the place is not ours and nothing was changed. Safe to run again.

if KEYS[6] and redis.call('GET', KEYS[6]) ~= ARGV[1] then
  return 0
end
local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'gaps')
local seq = tonumber(fixed[1])
local whole = seq and redis.call('HLEN', KEYS[1]) == tonumber(fixed[2]) and fixed[3] == '{}'
if whole and ARGV[3] ~= '' and seq > tonumber(ARGV[3]) then
  return 1
end
redis.call('DEL', KEYS[1])
for first = 4, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', KEYS[1], 'gaps', '{}')
redis.call('HSET', KEYS[1], 'size', redis.call('HLEN', KEYS[1]) + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
