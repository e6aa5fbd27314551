-- Enter one of several nodes that may run at the same time: take its place in the lock and read what it needs.
--
-- KEYS  1 context   2 contention flag   3 the node's run   4 nodes in hand   5 nodes turned away
--       6 the node's place; left out if it is kept on servers of its own
-- ARGV  1 claim (the place's value), or '' to ask no more than whether the message is late
--       2 lock expiry, ms   3 context expiry, ms   4 seq of the message   5 node
--       6 number of places   7 what the keys of runs begin with   8 1 to report a gap, 0 to rebuild at once
--       9.. fields of the context to read besides the fixed ones
--
-- Returns
--   {'late'}, {'timely'}, {'held', holder}   as `enter` does
--   {'missing', previous mark or false, its seq or false}
--   {'entered', previous mark or false, {…}, {…}, its seq or false}
--   {'gap'}    a sibling that was needed has committed and has not left yet; nothing was changed
--   {'full'}   all places are taken; the node is noted as turned away, and nothing else was changed
--
-- A place counts as taken while its run has a mark. The context has no mark of its own here, and its field `gaps`
-- holds the commits below its seq that have not been written yet: node by seq.
-- Safe to run again with the same claim: the place and the mark are then found to be ours.

local node, places = ARGV[5], tonumber(ARGV[6])

local function may_run(walk)
  local frontier = cjson.decode(walk)
  for _, line in ipairs({frontier.due or {}, frontier.waiting or {}}) do
    for _, standing in ipairs(line) do
      if standing == node then return true end
    end
  end
  return false
end

local function needs_one_of(gaps)
  local needed = {}
  for i = 9, #ARGV do needed[ARGV[i]] = true end
  for _, missing in pairs(gaps) do
    if needed['output:' .. missing] then return true end
  end
  return false
end

local fixed = redis.pcall(
  'HMGET', KEYS[1], 'seq', 'fence', 'walk', 'variables', 'identity', 'crashes', 'size', 'gaps')
if fixed.err then
  redis.call('DEL', KEYS[1]) -- it is no hash
  fixed = {}
end
local seq, size = tonumber(fixed[1]), tonumber(fixed[7])
local whole = seq and redis.call('HLEN', KEYS[1]) == size
local wanted = tonumber(ARGV[4])
if whole and seq > wanted then
  local is_readable, may = pcall(may_run, fixed[3])
  if is_readable and not may then
    return {'late'}
  end
  whole = is_readable
end
if ARGV[1] == '' then
  return {'timely'}
end
if whole and fixed[8] ~= '{}' then
  local is_readable, gaps = pcall(cjson.decode, fixed[8] or '')
  whole = is_readable and not needs_one_of(gaps)
  if is_readable and not whole and ARGV[8] == '1' then
    return {'gap'}
  end
end

local taken = 0
for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  if other ~= node and redis.call('HEXISTS', ARGV[7] .. other, 'mark') == 1 then
    taken = taken + 1
  end
end
if taken >= places then
  redis.call('SADD', KEYS[5], node)
  redis.call('PEXPIRE', KEYS[5], ARGV[3])
  return {'full'}
end

if KEYS[6] and not redis.call('SET', KEYS[6], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local holder = redis.call('GET', KEYS[6])
  if holder ~= ARGV[1] then
    return {'held', holder}
  end
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[4], time[1] * 1000 + math.floor(time[2] / 1000), node)
redis.call('PEXPIRE', KEYS[4], ARGV[3])
local before = redis.call('HMGET', KEYS[3], 'mark', 'seq')
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], 'mark', ARGV[1], 'seq', ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
if not whole or seq < wanted then
  return {'missing', before[1], before[2]}
end

redis.call('PEXPIRE', KEYS[1], ARGV[3])
local needed = {}
for first = 9, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  local values = redis.call('HMGET', KEYS[1], unpack(ARGV, first, last))
  for i = 1, last - first + 1 do needed[first - 9 + i] = values[i] end
end
return {'entered', before[1], {fixed[1], fixed[2], fixed[3], fixed[4], fixed[5], fixed[6]}, needed, before[2]}
