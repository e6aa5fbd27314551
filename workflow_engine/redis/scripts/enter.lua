-- Enter a node: take the execution's lock and read what the node needs, in one step.
--
-- KEYS  1 context   2 contention flag   3 lock; left out if it is kept on servers of its own
-- ARGV  1 claim (the lock's value), or '' to ask no more than whether the message is late
--       2 lock expiry, ms   3 context expiry, ms   4 seq of the message   5 node
--       6.. fields of the context to read besides the fixed ones
--
-- Returns
--   {'late'}           the context is ahead of the message, and the node neither due nor waiting: nothing was
--                      changed. A late message must not hold the lock even for an instant, or the message for
--                      the node that is due could meet it held.
--   {'timely'}         the message is not late, and that was all the question
--   {'held', holder}   another claim holds the lock; nothing was changed
--   {'missing'}        the lock is ours; the context is absent, partial, unreadable or behind the message
--   {'entered', previous mark or false, {seq, fence, walk, variables, identity, crashes or false},
--    {the fields of 6..}}
--                      the lock is ours, and our mark is on the context
--
-- Safe to run again with the same claim: the lock and the mark are then found to be ours.

local function may_run(walk, node)
  local frontier = cjson.decode(walk)
  for _, line in ipairs({frontier.due or {}, frontier.waiting or {}}) do
    for _, standing in ipairs(line) do
      if standing == node then return true end
    end
  end
  return false
end

local fixed = redis.pcall(
  'HMGET', KEYS[1], 'seq', 'fence', 'walk', 'variables', 'identity', 'crashes', 'size', 'mark')
if fixed.err then
  redis.call('DEL', KEYS[1]) -- it is no hash
  fixed = {}
end
local seq, size, mark = tonumber(fixed[1]), tonumber(fixed[7]), fixed[8]
local whole = seq and redis.call('HLEN', KEYS[1]) - (mark and 1 or 0) == size
local wanted = tonumber(ARGV[4])
if whole and seq > wanted then
  local is_readable, may = pcall(may_run, fixed[3], ARGV[5])
  if is_readable and not may then
    return {'late'}
  end
  whole = is_readable
end
if ARGV[1] == '' then
  return {'timely'}
end

if KEYS[3] and not redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local holder = redis.call('GET', KEYS[3])
  if holder ~= ARGV[1] then
    return {'held', holder}
  end
end
if not whole or seq < wanted then
  return {'missing'}
end

redis.call('HSET', KEYS[1], 'mark', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local needed = {}
for first = 6, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  local values = redis.call('HMGET', KEYS[1], unpack(ARGV, first, last))
  for i = 1, last - first + 1 do needed[first - 6 + i] = values[i] end
end
return {'entered', mark, {fixed[1], fixed[2], fixed[3], fixed[4], fixed[5], fixed[6]}, needed}
