-- Sets a vote about the circuit KEYS[1] and counts the others. ARGV: instance, open or not, counts or not, ttl in ms.
-- Ignores words that a later version may add to a value.
local key, instance, ttl = KEYS[1], ARGV[1], tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = (tonumber(clock[1]) - 1704067200) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local fields = redis.call('HGETALL', key)
local voters, open, longest = 0, 0, ttl

for i = 1, #fields, 2 do
  local vote, till = string.match(fields[i + 1], '^(%d) (%d+)')
  till = tonumber(till)
  if not till or till <= now then
    redis.call('HDEL', key, fields[i])
  elseif fields[i] ~= instance then
    voters = voters + 1
    open = open + tonumber(vote)
    longest = math.max(longest, till - now)
  end
end

if ARGV[3] == '1' then
  redis.call('HSET', key, instance, string.format('%s %.0f', ARGV[2], now + ttl))
  redis.call('PEXPIRE', key, string.format('%.0f', longest + 1000))
else
  redis.call('HDEL', key, instance)
end
return { voters, open }
