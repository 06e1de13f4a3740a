-- Takes tokens out of the buckets KEYS, all or nothing. Computes the same as `Bucket` in backstop's `store/state`.
-- Takes seven arguments for each key: microseconds per token, burst, ask, at least, spent, given back, granted at.
-- Returns five integers for each key (granted, remaining, retry after, reset after, total), then the time. All times are
-- in microseconds.
local ROUNDING, PROPORTION = 1e-9, 1 + 2 * 2 ^ -52
-- The largest total. A larger one could not be counted up, and not be returned as an integer.
local LARGEST = 2 ^ 53
local clock = redis.call('TIME')
-- Counted from 2024, so that a double has room for fractions of a microsecond.
local now = (tonumber(clock[1]) - 1704067200) * 1000000 + tonumber(clock[2])
local buckets, grants = {}, true

for i, key in ipairs(KEYS) do
  local a = (i - 1) * 7
  local token, burst = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local full = token * burst
  -- The tokens missing in the bucket, as the time that refills them; the time of that state; tokens granted so far.
  local missing, at, total = 0, now, 0
  local value = redis.call('GET', key)
  if value then
    -- A value of another form counts as no value. Words that a later version may add are ignored.
    local m, t, n = string.match(value, '^(%d[%d.e+-]*) (%d+) (%d+)')
    m = m and tonumber(m)
    if m then
      missing, at, total = m, tonumber(t), math.min(tonumber(n), LARGEST)
    end
  end
  missing = math.min(math.max(missing - math.max(now - at, 0), 0), full)
  local back = tonumber(ARGV[a + 6])
  if back > 0 then
    local refilled = math.max(now - tonumber(ARGV[a + 7]), 0)
    missing = math.max(missing - math.max(back * token - refilled, 0), 0)
  end
  local spent = tonumber(ARGV[a + 5])
  missing = math.min(missing + spent * token, full)
  local free = math.floor((full - missing) / token * PROPORTION + ROUNDING)
  local at_least = tonumber(ARGV[a + 4])
  if free < at_least then
    grants = false
  end
  buckets[i] = { token, full, missing, math.min(total + spent, LARGEST), free, at_least, value }
end

local reply = {}
for i, key in ipairs(KEYS) do
  local token, full, missing, total, free, at_least, value = unpack(buckets[i], 1, 7)
  local granted = 0
  if grants then
    granted = math.min(tonumber(ARGV[(i - 1) * 7 + 3]), free)
  end
  missing = math.min(missing + granted * token, full)
  total = total + granted
  -- A request for nothing may be a probe of a lost store. It writes, because a server that answers only reads, such as a
  -- replica or one without memory, is still lost.
  if missing > 0 or tonumber(ARGV[(i - 1) * 7 + 3]) == 0 then
    -- A full bucket is equal to a new one, but its total is not, so it stays for half a second. Redis may take another
    -- third of a second to delete what has expired.
    local life = math.ceil(missing / 1000) + 500
    redis.call('SET', key, string.format('%.17g %.0f %.0f', missing, now, total), 'PX', string.format('%.0f', life))
  elseif value then
    redis.call('DEL', key)
  end
  local lacks = math.max(at_least, 1) * token - (full - missing) - ROUNDING * token
  reply[#reply + 1] = granted
  reply[#reply + 1] = free - granted
  reply[#reply + 1] = math.ceil(math.max(lacks, 0))
  reply[#reply + 1] = math.ceil(missing)
  reply[#reply + 1] = total
end
reply[#reply + 1] = now
return reply
