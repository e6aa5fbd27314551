-- Enter nodes that may run at the same time: take their places in the lock and read what they need.
--
-- KEYS  1 context   2 nodes in hand   3 nodes turned away
--       4.. of each node: contention flag, run, and its place; that is left out if it is kept on servers of its own
-- ARGV  1 lock expiry, ms   2 context expiry, ms   3 number of places   4 what the keys of runs begin with
--       5 1 to report a gap, 0 to rebuild at once   6 number of nodes
--       7.. of each node: its claim (the place's value), or '' to ask no more than whether the message is late;
--       seq of the message; node; the number of fields of the context to read besides the fixed ones; and these
--
-- Returns {fixed fields of the context, {for each node:
--   {'late'}, {'timely'}, {'held', holder}   as `enter` does
--   {'missing', previous mark or false, its seq or false}
--   {'entered', previous mark or false, {…}, its seq or false}
--   {'gap'}    a sibling that was needed has committed and has not left yet, or there is no context and one that
--              has been entered is rebuilding it; nothing was changed
--   {'full'}   all places are taken; the node is noted as turned away, and nothing else was changed
-- }}
--
-- A place counts as taken while its run has a mark. The context has no mark of its own here, and its field `gaps`
-- holds the commits below its seq that have not been written yet: node by seq.
-- Safe to run again with the same claims: the places and the marks are then found to be ours.

local places, runs, reports_gap = tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
local nodes = tonumber(ARGV[6])
local keys_of_node = (#KEYS - 3) / nodes

local fixed = redis.pcall(
  'HMGET', KEYS[1], 'seq', 'fence', 'walk', 'variables', 'identity', 'crashes', 'size', 'gaps')
if fixed.err then
  redis.call('DEL', KEYS[1]) -- it is no hash
  fixed = {}
end
local seq = tonumber(fixed[1])
local is_whole = seq and redis.call('HLEN', KEYS[1]) == tonumber(fixed[7])

local standing -- the nodes that are due or waiting, once one of them has to be looked for
local function may_run(node)
  if not standing then
    local frontier, found = cjson.decode(fixed[3]), {}
    for _, line in ipairs({frontier.due or {}, frontier.waiting or {}}) do
      for _, each in ipairs(line) do found[each] = true end
    end
    standing = found
  end
  return standing[node]
end

local running, taken -- the nodes whose runs have a mark, and their number
local is_rebuilt -- one of them, entered by another call, may be rebuilding a context that is missing
local function count_running()
  running, taken = {}, 0
  for _, node in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if redis.call('HEXISTS', runs .. node, 'mark') == 1 then
      running[node], taken = true, taken + 1
    end
  end
  is_rebuilt = not is_whole and taken > 0
end

local function needs_a_gap(first, last)
  local needed = {}
  for i = first, last do needed[ARGV[i]] = true end
  for _, missing in pairs(cjson.decode(fixed[8])) do
    if needed['output:' .. missing] then return true end
  end
  return false
end

local function enter(claim, wanted, node, first, last, run, place)
  local whole = is_whole
  if whole and seq > wanted then
    local is_readable, may = pcall(may_run, node)
    if is_readable and not may then
      return {'late'}
    end
    whole = is_readable
  end
  if claim == '' then
    return {'timely'}
  end
  if whole and fixed[8] ~= '{}' then
    local is_readable, needs = pcall(needs_a_gap, first, last)
    whole = is_readable and not needs
    if is_readable and needs and reports_gap then
      return {'gap'}
    end
  end

  if not running then
    count_running()
  end
  if taken - (running[node] and 1 or 0) >= places then
    redis.call('SADD', KEYS[3], node)
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
    return {'full'}
  end
  if is_rebuilt and not running[node] and reports_gap then
    return {'gap'}
  end

  if place and not redis.call('SET', place, claim, 'NX', 'PX', ARGV[1]) then
    local holder = redis.call('GET', place)
    if holder ~= claim then
      return {'held', holder}
    end
  end
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), node)
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  local before = redis.call('HMGET', run, 'mark', 'seq')
  redis.call('DEL', run)
  redis.call('HSET', run, 'mark', claim, 'seq', wanted)
  redis.call('PEXPIRE', run, ARGV[2])
  if not running[node] then
    running[node], taken = true, taken + 1
  end
  if not whole or seq < wanted then
    return {'missing', before[1], before[2]}
  end

  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  local needed = {}
  for from = first, last, 1000 do
    local to = math.min(from + 999, last)
    local values = redis.call('HMGET', KEYS[1], unpack(ARGV, from, to))
    for i = 1, to - from + 1 do needed[from - first + i] = values[i] end
  end
  return {'entered', before[1], needed, before[2]}
end

local results, at = {}, 7
for i = 1, nodes do
  local key, first = 4 + keys_of_node * (i - 1), at + 4
  local last = first + tonumber(ARGV[at + 3]) - 1
  local place = keys_of_node == 3 and KEYS[key + 2]
  results[i] = enter(ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], first, last, KEYS[key + 1], place)
  at = last + 1
end
return {{fixed[1], fixed[2], fixed[3], fixed[4], fixed[5], fixed[6]}, results}
