-- Sets how many permits of KEYS[1] an instance holds. ARGV: instance, limit, permits, in use, ttl in milliseconds, number
-- of the request. The value of a field is the number of permits, the time at which they expire, in milliseconds, the
-- number of the last request, and the time to live. A fleet may run several versions: a missing number counts as 0, a
-- missing time to live as a day, and words that follow are ignored.
local key, instance = KEYS[1], ARGV[1]
local limit, permits, in_use, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local number = tonumber(ARGV[6])
-- In milliseconds. Redis rejects a time to live that overflows.
local DAY, LONGEST = 86400000, 2 ^ 43
local clock = redis.call('TIME')
local now = (tonumber(clock[1]) - 1704067200) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local fields = redis.call('HGETALL', key)
local before, last, others, instances, longest = 0, 0, 0, 0, ttl

for i = 1, #fields, 2 do
  local held, till, nth, life = string.match(fields[i + 1], '^(%d+) (%d+) ?(%d*) ?(%d*)')
  held, till, nth, life = tonumber(held), tonumber(till), tonumber(nth) or 0, math.min(tonumber(life) or DAY, LONGEST)
  if till and till - now > life then
    -- The clock has stepped backward, and would keep the permits of a killed process for as much longer.
    till = now + life
    redis.call('HSET', key, fields[i], string.format('%.0f %.0f %.0f %.0f', held, till, nth, life))
  end
  if not held or till <= now then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] == instance then
    before, last = held, nth
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
  redis.call('HSET', key, instance, string.format('%.0f %.0f %.0f %.0f', held, now + ttl, number, ttl))
  redis.call('PEXPIRE', key, string.format('%.0f', longest + 1000))
  instances = instances + 1
else
  redis.call('HDEL', key, instance)
end
return { held, math.max(free - held, 0), instances }
