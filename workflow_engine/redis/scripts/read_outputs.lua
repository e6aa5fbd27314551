-- Read further fields of a context while its node runs.
--
-- KEYS  1 context
-- ARGV  1 seq entered with   2.. fields
--
-- Returns the fields' values, or false if the context is not whole or not at that seq any more. A context that
-- siblings share may be at a later one: what was there stays there. It then must have no gap that was asked for.

local fixed = redis.call('HMGET', KEYS[1], 'seq', 'size', 'mark', 'gaps')
local seq, gaps = fixed[1], fixed[4]
local fields = redis.call('HLEN', KEYS[1]) - (fixed[3] and 1 or 0)
if not seq or fields ~= tonumber(fixed[2]) then
  return false
end
if gaps then
  if tonumber(seq) < tonumber(ARGV[1]) then
    return false
  end
  local missing = {}
  for _, node in pairs(cjson.decode(gaps)) do missing['output:' .. node] = true end
  for i = 2, #ARGV do
    if missing[ARGV[i]] then return false end
  end
elseif seq ~= ARGV[1] then
  return false
end
return redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
