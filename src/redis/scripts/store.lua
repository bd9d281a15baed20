-- Stores records at an index of a list, or at its end, and renews the list's life: all of it, or nothing.
-- KEYS[1]: the list. ARGV[1]: the server's time in ms when it is too late, 0 for never. ARGV[2]: the first record's index,
-- -1 for the end. ARGV[3]: the list's life in ms, 0 for ever. ARGV[4] and on: the records.
-- Returns the list's length; where the index is past the end, minus the length minus 1; nil if it is too late.
local key, life = KEYS[1], ARGV[3]
if ARGV[1] ~= '0' then
  local now = redis.call('TIME')
  if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[1]) then
    return false
  end
end
local before = redis.call('LLEN', key)
local index = tonumber(ARGV[2])
if index > before then
  return -before - 1
end
if index < 0 then
  index = before
end
local replaced = math.min(before - index, #ARGV - 3)
local old = replaced > 0 and redis.call('LRANGE', key, index, index + replaced - 1) or {}

local length = before
-- Writes, and returns the error of a server that refuses it (no right, no memory), with what was written before undone.
local function refused(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply['err'] then
    length = type(reply) == 'number' and math.max(length, reply) or length
    return nil
  end
  for i = 1, replaced do
    redis.pcall('LSET', key, index + i - 1, old[i])
  end
  if before == 0 then
    redis.pcall('LTRIM', key, 1, 0)
  elseif length > before then
    redis.pcall('LTRIM', key, 0, before - 1)
  end
  return reply
end

local err
for i = 1, replaced do
  err = err or refused('LSET', key, index + i - 1, ARGV[3 + i])
end
-- Lua's stack bounds the arguments of a call.
for first = 4 + replaced, #ARGV, 1000 do
  err = err or refused('RPUSH', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if life ~= '0' then
  err = err or refused('PEXPIRE', key, life)
end
return err or length
