-- Unlock an execution whose node was not committed: the mark of the run goes, the context stays.
--
-- KEYS  1 context   2 contention flag   3 lock; left out if it is kept on servers of its own
-- ARGV  1 claim
--
-- Returns {1 if the lock was here and held by this claim, else 0, 1 if a waiter has met the lock, else 0}. Safe
-- to run again, except that contention is reported once.

if redis.call('HGET', KEYS[1], 'mark') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'mark')
end
local ours = KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[3])
end
return {ours and 1 or 0, redis.call('DEL', KEYS[2])}
