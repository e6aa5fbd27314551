-- Remove our mark from a context: nothing was committed, and nothing is being run any more.
--
-- KEYS  1 context
-- ARGV  1 claim
--
-- Safe to run again.

if redis.call('HGET', KEYS[1], 'mark') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'mark')
end
return 1
