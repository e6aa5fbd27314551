-- Ask whoever runs a node of an execution to stop; the cached context is gone already.
--
-- KEYS  1 context
-- ARGV  1 token of the claim under which the node is run   2 expiry, ms
--
-- A context with no more than this field is not whole: whoever enters next rebuilds it. Safe to run again.

redis.call('HSET', KEYS[1], 'interrupt', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
