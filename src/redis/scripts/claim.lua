-- Moves a whole list to a claim that only this taker knows, unless it holds more than the taker has room for.
-- KEYS[1]: the list. KEYS[2]: the claim. ARGV[1]: room. ARGV[2]: the claim's life in ms where the list lived for ever.
-- Returns the number of records, and 1 if the list lived for ever.
-- A taker that lost the answer asks again and finds its claim.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {redis.call('LLEN', KEYS[2]), 0}
end
local length = redis.call('LLEN', KEYS[1])
if length == 0 or length > tonumber(ARGV[1]) then
  return {length, 0}
end
redis.call('RENAME', KEYS[1], KEYS[2])
if redis.call('PTTL', KEYS[2]) >= 0 then
  return {length, 0}
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {length, 1}
