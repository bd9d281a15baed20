-- Stands before the scripts that may come too late.
-- Whether the server's time, in ms, is past this; 0 is never.
local function is_past(time)
  if time == '0' then
    return false
  end
  local now = redis.call('TIME')
  return now[1] * 1000 + now[2] / 1000 > tonumber(time)
end

