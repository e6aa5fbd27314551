-- Clear the cache of an execution that has ended or whose context is not to be believed, and unlock.
--
-- KEYS  1 context   2 knock   3 lock; left out if locks are kept on servers of their own
-- ARGV  1 claim   2 channel to tell, or ''   3 message
--
-- Answers 1 if the lock was here and ours until now, else 0. Safe to run again.

redis.call('DEL', KEYS[1])
local ours = KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[3])
end
if ARGV[2] ~= '' then
  redis.call('DEL', KEYS[2])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return ours and 1 or 0
