-- Give up a lock without having committed anything.
--
-- KEYS  1 lock   2 context
-- ARGV  1 claim
--
-- The mark is removed with it, if it is ours: nothing is being run any more.
-- Answers 1 if the lock was ours, else 0. Safe to run again.

if redis.call('HGET', KEYS[2], 'mark') == ARGV[1] then
  redis.call('HDEL', KEYS[2], 'mark')
end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
