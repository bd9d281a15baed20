-- Stores records at an index of a list, or at its end, and renews the list's life.
-- KEYS[1]: the list. ARGV[1]: the first record's index, -1 for the end. ARGV[2]: the list's life in ms, 0 for ever.
-- ARGV[3] and on: the records. Returns the list's length; where the index is past the end, minus the length minus 1.
local length = redis.call('LLEN', KEYS[1])
local index = tonumber(ARGV[1])
if index > length then
  return -length - 1
end
for i = 3, #ARGV do
  if index >= 0 and index < length then
    redis.call('LSET', KEYS[1], index, ARGV[i])
    index = index + 1
  else
    redis.call('RPUSH', KEYS[1], ARGV[i])
  end
end
if ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('LLEN', KEYS[1])
