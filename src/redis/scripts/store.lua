-- Stores records at an index of each list, or at its end, and renews the lists' lives: of each list all of it, or nothing.
-- KEYS: the lists. ARGV[1]: the server's time in ms when it is too late, 0 for never. ARGV[2]: the lists' life in ms, 0 for
-- ever. ARGV[3]: 1 to renew it, 0 where that was done a moment ago: then only new lists are given it. ARGV[4]: how many
-- records for each list. Then for each list: the first one's index, -1 for the end; the records.
-- Returns for each list its length; where the index is past the end, minus the length minus 1; or the server's refusal. nil
-- if it is too late. It only fails as a whole when nothing was stored: a refused command raises no error.
if is_past(ARGV[1]) then
  return false
end
local call, type = redis.pcall, type
local life, renews = ARGV[2], ARGV[3] == '1'

-- Whether the server refused a command: no right, no memory, no list.
local function is_refusal(reply)
  return type(reply) == 'table' and reply['err']
end

-- Returns the list's length, or a refusal, maybe half-way.
local function put(key, before, index, first, last)
  -- Nearly all calls: the next token's record.
  if index == before and first == last then
    return call('RPUSH', key, ARGV[first])
  end
  local length = before
  for i = first, math.min(last, first + before - index - 1) do
    local reply = call('LSET', key, index + i - first, ARGV[i])
    if is_refusal(reply) then
      return reply
    end
  end
  -- Lua's stack bounds the arguments of a call.
  for i = first + before - index, last, 1000 do
    length = call('RPUSH', key, unpack(ARGV, i, math.min(i + 999, last)))
    if is_refusal(length) then
      return length
    end
  end
  return length
end

local function undo(key, before, index, old)
  for i = 1, #old do
    call('LSET', key, index + i - 1, old[i])
  end
  if before == 0 then
    call('LTRIM', key, 1, 0)
  else
    call('LTRIM', key, 0, before - 1)
  end
end

local function store(key, index, first, last)
  local before = call('LLEN', key)
  if is_refusal(before) then
    return before
  end
  if index > before then
    return -before - 1
  end
  local old
  if index < 0 then
    index = before
  elseif index < before then
    old = call('LRANGE', key, index, index + last - first)
    if is_refusal(old) then
      return old
    end
  end
  local length = put(key, before, index, first, last)
  local refusal = is_refusal(length) and length
  if not refusal and life ~= '0' and (renews or before == 0) then
    local reply = call('PEXPIRE', key, life)
    refusal = is_refusal(reply) and reply
  end
  if refusal then
    undo(key, before, index, old or {})
  end
  return refusal or length
end

local answers, count, at = {}, tonumber(ARGV[4]), 5
for i = 1, #KEYS do
  answers[i] = store(KEYS[i], tonumber(ARGV[at]), at + 1, at + count)
  at = at + 1 + count
end
return answers
