-- Sets a vote about the circuit KEYS[1] and counts the others. ARGV: instance, open or not, counts or not, ttl in ms.
-- The value of a field is the vote, the time at which it expires, in ms, and the ttl; without that, a day. Ignores words
-- that a later version may add.
local key, instance, ttl = KEYS[1], ARGV[1], tonumber(ARGV[4])
-- In milliseconds. Redis rejects a time to live that overflows.
local DAY, LONGEST = 86400000, 2 ^ 43
local clock = redis.call('TIME')
local now = (tonumber(clock[1]) - 1704067200) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local fields = redis.call('HGETALL', key)
local voters, open, longest = 0, 0, ttl

for i = 1, #fields, 2 do
  local vote, till, life = string.match(fields[i + 1], '^(%d) (%d+) ?(%d*)')
  till, life = tonumber(till), math.min(tonumber(life) or DAY, LONGEST)
  if till and till - now > life then
    -- The clock has stepped backward, and would keep the vote of a killed process for as much longer.
    till = now + life
    redis.call('HSET', key, fields[i], string.format('%s %.0f %.0f', vote, till, life))
  end
  if not till or till <= now then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] ~= instance then
    voters = voters + 1
    open = open + tonumber(vote)
    longest = math.max(longest, till - now)
  end
end

if ARGV[3] == '1' then
  redis.call('HSET', key, instance, string.format('%s %.0f %.0f', ARGV[2], now + ttl, ttl))
  redis.call('PEXPIRE', key, string.format('%.0f', longest + 1000))
else
  redis.call('HDEL', key, instance)
end
return { voters, open }
