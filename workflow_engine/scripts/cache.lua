-- Put a context that was rebuilt from Postgres into the cache, whole, if the lock is still ours.
--
-- KEYS  1 lock   2 context
-- ARGV  1 claim   2 context expiry, ms   3.. field, value, field, value, …
--
-- Answers 1, or 0 if the lock is not ours and nothing was changed. Safe to run again.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
for first = 3, #ARGV, 1000 do
  redis.call('HSET', KEYS[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', KEYS[2], 'size', redis.call('HLEN', KEYS[2]) + 1)
redis.call('HSET', KEYS[2], 'mark', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
