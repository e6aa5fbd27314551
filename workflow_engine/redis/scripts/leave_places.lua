-- Leave nodes that may run at the same time, after the commit that they share or the only one's own: add to the
-- cached context what the commit has changed, free their places, and send the messages that follow.
--
-- KEYS  1 context   2 nodes in hand   3 nodes turned away
--       4.. of each node: contention flag, run, and its place; that is left out if it is kept on servers of its own
--       then a queue for each message
-- ARGV  1 highest seq that one of the nodes was entered with   2 context expiry, ms
--       3 ms after which a node in hand that was not entered is overdue   4 what the keys of places begin with
--       5 JSON {hand: nodes in hand after the commit, between: {seq: node} of commits after the one entered with,
--               state: the number of values that belong to the latest commit, places: true unless they are elsewhere,
--               nodes: for each [node, seq committed, number of values that belong to this seq alone], in order}
--       6.. the claim of each node; then the messages; then field, value, … of the latest commit; then those of each
--       node's own seq
--
-- Nodes leave in any order. Outputs and the path belong to one commit, so each is written when its node leaves.
-- What belongs to the latest commit (the walk, the fence, the variables) is written by the highest seq. Until a
-- sibling that committed below it has left too, its seq is a gap.
-- A context that is behind the seq we entered with has been restored or removed, and one that is not whole has lost
-- a part: it is deleted, never patched and never created, and the next node rebuilds it from Postgres.
-- Returns {1 if a waiter has met one of the places, 1 if the context is up to date, nodes turned away, overdue nodes}.
-- Safe to run again, except that waiters are reported once.

local given = cjson.decode(ARGV[5])
local nodes = given.nodes
local keys_of_node = given.places and 3 or 2
local first_queue = 4 + keys_of_node * #nodes
local first_message = 6 + #nodes
local first_state = first_message + math.max(#KEYS - first_queue + 1, 0)
local first_own = first_state + given.state
local committed = nodes[#nodes][2]

local function write(first, last)
  local added = 0
  for from = first, last, 1000 do
    added = added + redis.call('HSET', KEYS[1], unpack(ARGV, from, math.min(from + 999, last)))
  end
  return added
end

local updated, is_latest = 0, true
local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'gaps')
local seq, size = tonumber(fixed[1]), tonumber(fixed[2])
if seq and fixed[3] and seq >= tonumber(ARGV[1]) and redis.call('HLEN', KEYS[1]) == size then
  local gaps, added = cjson.decode(fixed[3]), 0
  if committed > seq then
    for missed, sibling in pairs(given.between) do
      if tonumber(missed) > seq then gaps[missed] = sibling end
    end
    added = redis.call('HSET', KEYS[1], 'seq', string.format('%d', committed)) + write(first_state, #ARGV)
  else
    is_latest = committed == seq
    local first = first_own
    for _, node in ipairs(nodes) do
      local number = string.format('%d', node[2])
      if gaps[number] then
        gaps[number] = nil
        added = added + write(first, first + node[3] - 1)
      end
      first = first + node[3]
    end
  end
  redis.call('HSET', KEYS[1], 'size', size + added, 'gaps', cjson.encode(gaps))
  updated = 1
else
  redis.call('DEL', KEYS[1])
end

local contended = 0
for i, node in ipairs(nodes) do
  local first, claim = 4 + keys_of_node * (i - 1), ARGV[5 + i]
  if given.places and redis.call('GET', KEYS[first + 2]) == claim then
    redis.call('DEL', KEYS[first + 2])
  end
  if redis.call('HGET', KEYS[first + 1], 'mark') == claim then
    redis.call('DEL', KEYS[first + 1])
    redis.call('ZREM', KEYS[2], node[1])
  end
  if redis.call('DEL', KEYS[first]) == 1 then
    contended = 1
  end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local overdue = {}
if is_latest then
  local in_hand = {}
  for _, each in ipairs(given.hand) do
    in_hand[each] = true
    redis.call('ZADD', KEYS[2], 'NX', now, each)
  end
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))) do
    if given.places and redis.call('EXISTS', ARGV[4] .. each) == 1 then
      -- it is running
    elseif in_hand[each] then
      redis.call('ZADD', KEYS[2], now, each)
      overdue[#overdue + 1] = each
    else
      redis.call('ZREM', KEYS[2], each)
    end
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end

for i = first_queue, #KEYS do
  redis.call('LPUSH', KEYS[i], ARGV[first_message + i - first_queue])
end
local turned_away = redis.call('SMEMBERS', KEYS[3])
redis.call('DEL', KEYS[3])
return {contended, updated, turned_away, overdue}
