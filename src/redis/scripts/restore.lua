-- Gives a claimed list back, before whatever was stored under its name since.
-- KEYS[1]: the list. KEYS[2]: the claim. ARGV[1]: the server's time in ms from which on it cannot be claimed any more, 0 if
-- that is not known. ARGV[2]: 1 if the list lived for ever.
-- Returns 1 if there was a claim, 0 if there will never be one, -1 if there may yet be one.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return is_past(ARGV[1]) and 0 or -1
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('RENAME', KEYS[2], KEYS[1])
else
  while redis.call('RPOPLPUSH', KEYS[2], KEYS[1]) do end
end
if ARGV[2] == '1' then
  redis.call('PERSIST', KEYS[1])
end
return 1
