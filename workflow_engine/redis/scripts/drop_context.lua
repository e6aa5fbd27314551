-- Unlock an execution whose cached context is not needed any more, or not to be believed: the context goes.
--
-- KEYS  1 context   2 contention flag   3 lock; left out if it is kept on servers of its own
-- ARGV  1 claim   2 channel to publish the message to, or ''   3 message
--
-- Returns {1 if the lock was here and held by this claim, else 0, 1 if a waiter has met the lock, else 0}. Safe
-- to run again, except that contention is reported once.

redis.call('DEL', KEYS[1])
local ours = KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[3])
end
if ARGV[2] ~= '' then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return {ours and 1 or 0, redis.call('DEL', KEYS[2])}
