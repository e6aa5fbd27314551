-- Look after a running node: store its progress, and read whether it is asked to stop.
--
-- KEYS  1 context, or the node's run where several may run at the same time
-- ARGV  1 claim   2 context expiry, ms   3 progress as JSON, or '' if there is nothing new
--
-- Returns the token of the claim that is asked to stop, or false. Progress is written beside our own mark
-- only, and counts as a field of the context, as all but the mark do. Safe to run again.

local fixed = redis.call('HMGET', KEYS[1], 'interrupt', 'mark')
if ARGV[3] ~= '' and fixed[2] == ARGV[1] then
  if redis.call('HSET', KEYS[1], 'progress', ARGV[3]) == 1 then
    redis.call('HINCRBY', KEYS[1], 'size', 1)
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return fixed[1]
