-- Returns {waiting jobs, waiting tokens, running jobs, age of the oldest waiting job in ms}.
local oldest = redis.call('ZRANGE', arrivals, 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', arrivals), number_at('tokens'), redis.call('ZCARD', leases),
  oldest and now - tonumber(oldest) or 0,
}
