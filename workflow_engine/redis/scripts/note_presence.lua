-- Note which lives are connected, and return those that are over: registered, and without a connection for a while.
--
-- KEYS  1 presence: for each life since when it has no connection, ms, or '' if it has one, or 'over', its locks
--         being free, followed by the time of that, ms; and `run`
-- ARGV  1 run of the server   2 expiry, ms   3 ms without a connection after which a life is over
--       4 ms after which a life that is over is forgotten   5.. the lives that are connected
--
-- After a restart of the server, everybody connects again: what is known is of no use, and is deleted. A frozen
-- process would not connect, and look dead.
-- Returns the lives that are over. Safe to run again.

local run = redis.call('HGET', KEYS[1], 'run')
if run and run ~= ARGV[1] then
  redis.call('DEL', KEYS[1])
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local connected, over = {run = true}, {}
for i = 5, #ARGV do connected[ARGV[i]] = true end
local fields = redis.call('HGETALL', KEYS[1])
local since = {}
for i = 1, #fields, 2 do
  local life = fields[i]
  since[life] = fields[i + 1]
  if not connected[life] then
    local missing = tonumber(since[life])
    local buried = string.match(since[life], '^over(%d*)$')
    if buried == '' then
      redis.call('HSET', KEYS[1], life, 'over' .. now)
    elseif buried then
      if now - tonumber(buried) >= tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], life) end
    elseif not missing then
      redis.call('HSET', KEYS[1], life, now)
    elseif now - missing >= tonumber(ARGV[3]) then
      over[#over + 1] = life
    end
  end
end
for i = 5, #ARGV do
  if since[ARGV[i]] ~= '' then redis.call('HSET', KEYS[1], ARGV[i], '') end
end
redis.call('HSET', KEYS[1], 'run', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return over
