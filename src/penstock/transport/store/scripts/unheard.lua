-- ARGV: least ms since the end, most jobs
-- Returns a flat list of job, its last event and the time of its end (ms), for jobs whose last event
-- no process received and whose own process is gone. Another call gets them again only after `least_ms`.
local least_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {}

go_on_when_full()

for _, id in ipairs(redis.call('ZRANGEBYSCORE', unheard, '-inf', now - least_ms, 'LIMIT', 0, most)) do
  local f = redis.call('HMGET', job_key(id), 'job', 'reply', 'ended')
  local last = redis.call('XREVRANGE', journal_key(id), '+', '-', 'COUNT', 1)[1]
  if f[1] and last and redis.call('PUBSUB', 'NUMSUB', f[2])[2] == 0 then
    local ended_ms = f[3] or redis.call('ZSCORE', unheard, id)
    redis.call('HSET', job_key(id), 'ended', ended_ms)
    redis.call('ZADD', unheard, now, id)
    found[#found + 1] = f[1]
    found[#found + 1] = last[2][2]
    found[#found + 1] = ended_ms
  else
    -- Its process lost its connection for a moment; it accounts for the job itself.
    redis.call('HDEL', job_key(id), 'job')
    redis.call('ZREM', unheard, id)
  end
end
return found
