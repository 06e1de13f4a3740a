-- Sets how many permits of KEYS[1] an instance holds. ARGV: instance, limit, permits, in use, ttl in milliseconds, number
-- of the request. The value of a field is the number of permits, the time at which they expire, in milliseconds, and the
-- number of the last request. A fleet may run several versions: a missing number counts as 0, and words that follow are
-- ignored.
local key, instance = KEYS[1], ARGV[1]
local limit, permits, in_use, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local number = tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = (tonumber(clock[1]) - 1704067200) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local fields = redis.call('HGETALL', key)
local before, last, others, instances, longest = 0, 0, 0, 0, ttl

for i = 1, #fields, 2 do
  local held, till, nth = string.match(fields[i + 1], '^(%d+) (%d+) ?(%d*)')
  held, till = tonumber(held), tonumber(till)
  if not held or till <= now then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] == instance then
    before, last = held, tonumber(nth) or 0
  else
    others = others + held
    instances = instances + 1
    longest = math.max(longest, till - now)
  end
end

local free = math.max(limit - others, 0)
if number < last then
  -- Late: a later request has been executed.
  return { before, math.max(free - before, 0), instances + 1 }
end
local held = math.max(math.min(permits, free), math.min(in_use, before))
if held > 0 or permits > 0 then
  redis.call('HSET', key, instance, string.format('%.0f %.0f %.0f', held, now + ttl, number))
  redis.call('PEXPIRE', key, string.format('%.0f', longest + 1000))
  instances = instances + 1
else
  redis.call('HDEL', key, instance)
end
return { held, math.max(free - held, 0), instances }
