-- Gives a claimed list back, before whatever was stored under its name since.
-- KEYS[1]: the list. KEYS[2]: the claim. ARGV[1]: the list's life in ms, below 0 for ever.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('RENAME', KEYS[2], KEYS[1])
else
  while redis.call('RPOPLPUSH', KEYS[2], KEYS[1]) do end
end
if tonumber(ARGV[1]) < 0 then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
