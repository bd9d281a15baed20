-- Moves a whole list to a claim that only this taker knows, if it has neither more nor fewer records than wanted.
-- KEYS[1]: the list. KEYS[2]: the claim. ARGV[1]: the server's time in ms when it is too late, 0 for never.
-- ARGV[2]: the least number of records. ARGV[3]: the most.
-- ARGV[4]: the claim's life in ms where the list lived for ever; elsewhere it lives as long as the list would have.
-- Returns the number of records, and 1 if the list lived for ever, 0 if not, -1 if that is not known; nil if it is too late.
-- A taker that lost the answer asks again and finds its claim.
if redis.call('EXISTS', KEYS[2]) == 1 then
  return {redis.call('LLEN', KEYS[2]), -1}
end
if is_past(ARGV[1]) then
  return false
end
local length = redis.call('LLEN', KEYS[1])
if length == 0 or length < tonumber(ARGV[2]) or length > tonumber(ARGV[3]) then
  return {length, 0}
end
-- The list is moved last: whatever is refused, it is still there.
local lives_for_ever = redis.call('PTTL', KEYS[1]) < 0
if lives_for_ever then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
local moved = redis.pcall('RENAME', KEYS[1], KEYS[2])
if moved['err'] then
  if lives_for_ever then
    redis.call('PERSIST', KEYS[1])
  end
  return moved
end
return {length, lives_for_ever and 1 or 0}
