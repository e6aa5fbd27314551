-- Free the place of a node that was not committed, or whose execution has come to rest or moved on without it.
--
-- KEYS  1 context   2 contention flag   3 the node's run   4 nodes in hand   5 nodes turned away
--       6 the node's place; left out if it is kept on servers of its own
-- ARGV  1 claim   2 node   3 'context' to delete the context, 'all' to delete the nodes in hand too, or ''
--       4 channel to publish the message to, or ''   5 message
--
-- Returns {1 if the place was here and held by this claim, else 0, 1 if a waiter has met it or found all places
-- taken, else 0}. Safe to run again, except that a waiter who met this place is reported once.

if ARGV[3] ~= '' then
  redis.call('DEL', KEYS[1])
end
local ours = KEYS[6] and redis.call('GET', KEYS[6]) == ARGV[1]
if ours then
  redis.call('DEL', KEYS[6])
end
if redis.call('HGET', KEYS[3], 'mark') == ARGV[1] then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[4], ARGV[2])
end
if ARGV[3] == 'all' then
  redis.call('DEL', KEYS[4], KEYS[5])
end
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[5])
end
local contended = redis.call('DEL', KEYS[2]) == 1 or redis.call('EXISTS', KEYS[5]) == 1
return {ours and 1 or 0, contended and 1 or 0}
