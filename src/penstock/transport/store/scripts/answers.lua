-- ARGV: scope, its most answers, ms for which they are kept, most bytes of the queue's answers of all
-- scopes, packed answers
-- Returns how many other scopes were dropped to keep to the bound: those that were added to longest ago.
local scope, most, life_ms, bound = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local scopes, sizes = prefix .. 'answer_scopes', prefix .. 'answer_bytes'
local TOTAL = ''

local function key_of(name) return prefix .. 'answers:' .. name end

local function note(name, bytes)
  local before = tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HINCRBY', sizes, TOTAL, bytes - before)
  if bytes > 0 then redis.call('HSET', sizes, name, bytes) else redis.call('HDEL', sizes, name) end
end

for i = 7, #ARGV do
  redis.call('XADD', key_of(scope), 'MAXLEN', '~', most, '*', 't', ARGV[i])
end
redis.call('PEXPIRE', key_of(scope), life_ms)
redis.call('ZADD', scopes, now, scope)
note(scope, redis.call('MEMORY', 'USAGE', key_of(scope), 'SAMPLES', 0))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', scopes, '-inf', '(' .. now - life_ms)) do
  redis.call('ZREM', scopes, name)
  note(name, 0)
end
local dropped = 0
while tonumber(redis.call('HGET', sizes, TOTAL) or 0) > bound do
  local oldest = redis.call('ZRANGE', scopes, 0, 0)[1]
  if not oldest or oldest == scope then break end
  redis.call('ZREM', scopes, oldest)
  redis.call('DEL', key_of(oldest))
  note(oldest, 0)
  dropped = dropped + 1
end
redis.call('PEXPIRE', scopes, life_ms)
redis.call('PEXPIRE', sizes, life_ms)
return dropped
