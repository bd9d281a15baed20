-- Moves a whole list to a claim that only this taker knows, unless it holds more than the taker has room for.
-- KEYS[1]: the list. KEYS[2]: the claim. ARGV[1]: room. ARGV[2]: the claim's life in ms.
-- Returns the number of records, and the list's life before the claim in ms: -1 for ever, -2 no list or already claimed.
-- A taker that lost the answer asks again and finds its claim.
local life = -2
if redis.call('EXISTS', KEYS[2]) == 0 then
  local length = redis.call('LLEN', KEYS[1])
  if length == 0 or length > tonumber(ARGV[1]) then
    return {length, life}
  end
  life = redis.call('PTTL', KEYS[1])
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {redis.call('LLEN', KEYS[2]), life}
