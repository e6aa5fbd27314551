-- Enter a node: take the execution's lock and read what the node needs, in one step.
--
-- KEYS  1 lock   2 context
-- ARGV  1 claim (the lock's value)   2 lock expiry, ms   3 context expiry, ms   4 seq of the message
--       5.. fields of the context to read besides the fixed ones
--
-- Answers
--   {'held', holder}                       somebody else holds the lock; nothing was changed
--   {'missing'}                            the lock is ours; the context is absent, partial or behind the message
--   {'entered', previous mark or false, {seq, fence, walk, variables, identity}, {the fields of 5..}}
--                                          the lock is ours, and our mark is on the context
--
-- Safe to run again with the same claim: the lock and the mark are then found to be ours.

if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local holder = redis.call('GET', KEYS[1])
  if holder ~= ARGV[1] then
    return {'held', holder}
  end
end

local fixed = redis.call('HMGET', KEYS[2], 'seq', 'fence', 'walk', 'variables', 'identity', 'size', 'mark')
local seq, size, mark = tonumber(fixed[1]), tonumber(fixed[6]), fixed[7]
local fields = redis.call('HLEN', KEYS[2]) - (mark and 1 or 0)
if not seq or seq < tonumber(ARGV[4]) or fields ~= size then
  return {'missing'}
end

redis.call('HSET', KEYS[2], 'mark', ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local needed = {}
if #ARGV > 4 then
  local names = {}
  for i = 5, #ARGV do names[i - 4] = ARGV[i] end
  for first = 1, #names, 1000 do
    local last = math.min(first + 999, #names)
    local values = redis.call('HMGET', KEYS[2], unpack(names, first, last))
    for i = 1, last - first + 1 do needed[first + i - 1] = values[i] end
  end
end
return {'entered', mark, {fixed[1], fixed[2], fixed[3], fixed[4], fixed[5]}, needed}
