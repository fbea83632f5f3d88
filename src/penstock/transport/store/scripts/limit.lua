-- One API key's two buckets, which fill evenly and hold a minute's allowance.
-- KEYS[1] the buckets; ARGV: requests/min, tokens/min (0: no limit), requests, tokens, 1 to take
-- unconditionally (negative tokens give a part back).
-- Returns {ms to wait (0: taken), requests left, tokens left}.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local most = { tonumber(ARGV[1]), tonumber(ARGV[2]) }
local needed = { tonumber(ARGV[3]), tonumber(ARGV[4]) }
local MINUTE_MS = 60000

local f = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local passed = math.max(now - tonumber(f[3] or now), 0)
local left, wait = {}, 0
for i = 1, 2 do
  left[i] = math.min(most[i], tonumber(f[i] or most[i]) + passed * most[i] / MINUTE_MS)
  -- A request larger than a bucket is admitted when the bucket is full.
  local missing = math.min(needed[i], most[i]) - left[i]
  if most[i] > 0 and missing > 0 then
    wait = math.max(wait, math.ceil(missing * MINUTE_MS / most[i]))
  end
end
if ARGV[5] == '1' then wait = 0 end

local full_in = 0
for i = 1, 2 do
  if wait == 0 then left[i] = math.min(most[i], left[i] - needed[i]) end
  if most[i] > 0 then
    full_in = math.max(full_in, math.ceil((most[i] - left[i]) * MINUTE_MS / most[i]))
  end
end
redis.call('HSET', KEYS[1], 'requests', string.format('%.6f', left[1]),
  'tokens', string.format('%.6f', left[2]), 'at', now)
redis.call('PEXPIRE', KEYS[1], full_in + 1000)
return { wait, math.floor(left[1]), math.floor(left[2]) }
