-- Ask the worker that runs a node of an execution to stop; a cached context of a lone node is gone already.
--
-- KEYS  1 context, or the node's run where several may run at the same time
-- ARGV  1 token of the claim under which the node is run   2 expiry, ms
--
-- A context with only this field is not whole: the next hop rebuilds it. Safe to run again.

redis.call('HSET', KEYS[1], 'interrupt', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
