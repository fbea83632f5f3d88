-- ARGV: worker
-- Returns {waiting jobs, age of the oldest in ms, their best priority (-1: none waits), other live
-- workers that claim here, other live workers that could load the model, whether one of them loads it
-- now}.
local worker = ARGV[3]

local function others(key)
  local until_ms = redis.call('ZSCORE', key, worker)
  local is_live = until_ms and tonumber(until_ms) > now
  return redis.call('ZCOUNT', key, '(' .. now, '+inf') - (is_live and 1 or 0)
end

local best = -1
for priority = 9, 0, -1 do
  if redis.call('EXISTS', tenants_key(priority)) == 1 then best = priority end
end
local oldest = redis.call('ZRANGE', arrivals, 0, 0, 'WITHSCORES')[2]
local loader = redis.call('GET', prefix .. 'loading')
return {
  redis.call('ZCARD', arrivals), oldest and math.max(now - tonumber(oldest), 0) or 0, best,
  others(live_workers), others(prefix .. 'loaders'), loader and loader ~= worker and 1 or 0,
}
