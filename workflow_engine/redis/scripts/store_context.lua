-- Put a context that was rebuilt from Postgres into the cache, whole, unless the lock is another claim's.
--
-- KEYS  1 context   2 contention flag   3 lock; left out if it is kept on servers of its own
-- ARGV  1 claim   2 context expiry, ms   3.. field, value, field, value, …
--
-- Returns 1, or 0 if the lock is not ours and nothing was changed. Safe to run again.

if KEYS[3] and redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
for first = 3, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', KEYS[1], 'size', redis.call('HLEN', KEYS[1]) + 1)
redis.call('HSET', KEYS[1], 'mark', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
