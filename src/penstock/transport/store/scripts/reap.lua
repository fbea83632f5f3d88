-- ARGV: lost workers after which a job is poison, least ms between two runs, most of each kind a run
-- Returns {requeued, poisoned, expired, rung, ms until the next lease ends (-1: nothing runs)}.
local most_lost, pause_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local BLIND_MS = 2000
local requeued, poisoned, expired, rung = 0, 0, 0, 0
local last = number_at('reaped')
local set_back = now < last

local function next_end_ms()
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  return first[2] and math.max(tonumber(first[2]) - now, 0) or -1
end

-- Every API and worker process reaps; all together need not run more often than one would. An
-- expired lease is exempt: the caller has come for it.
if last > 0 and not set_back and now - last < pause_ms then
  local left_ms = next_end_ms()
  if left_ms ~= 0 then return { 0, 0, 0, 0, left_ms } end
end
go_on_when_full()

local function reap_lease(id)
  local job = read(id)
  if not job or job.state ~= 'running' then
    redis.call('ZREM', leases, id)
  elseif job.cancel then
    fail_cancelled(job)
  elseif job.deadline <= now then
    fail_expired(job)
    expired = expired + 1
  elseif job.lost + 1 >= most_lost then
    redis.call('HSET', job_key(id), 'lost', job.lost + 1)
    fail(job, 'failed', 'poison_job', 'the job took down ' .. (job.lost + 1) .. ' workers')
    poisoned = poisoned + 1
  else
    requeue(job, job.lost + 1)
    requeued = requeued + 1
  end
end

-- If nobody has reaped for longer than a lease (and longer than the usual pause between runs), nobody
-- could renew either, because Redis was away or stalled. Expired leases are then extended once, so
-- that live workers can renew them.
local function reap_leases()
  local over = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, most)
  local blind = last > 0 and now - last > math.max(lease_ms, BLIND_MS) and number_at('graced') == 0
  for _, id in ipairs(over) do
    if blind then redis.call('ZADD', leases, now + lease_ms, id) else reap_lease(id) end
  end
  return blind
end

-- Redis's clock was set back, or a replica with a slower clock has taken over: earlier leases would
-- last longer by the difference, and with them the jobs of dead workers.
local function shorten_leases()
  local until_ms = now + lease_ms
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. until_ms, '+inf')) do
    redis.call('ZADD', leases, until_ms, id)
  end
end

local function reap_deadlines()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, most)) do
    local job = read(id)
    if job and job.state == 'waiting' then take_out_of_line(job) end
    if job and (job.state == 'waiting' or job.state == 'running') then
      fail_expired(job)
      expired = expired + 1
    else
      redis.call('ZREM', deadlines, id)
    end
  end
end

-- A doorbell can be lost with the worker that took it. Doorbells in the hands of live workers are not
-- in the list, but those have claimed their jobs, so one doorbell a waiting job is always enough.
local function mend_bells()
  rung = math.min(redis.call('ZCARD', arrivals) - redis.call('LLEN', bells), most)
  if rung > 0 then ring(rung) else rung = 0 end
  mute(most)
end

if set_back then shorten_leases() end
local blind = reap_leases()
reap_deadlines()
mend_bells()
if last > 0 or redis.call('EXISTS', counters) == 1 then
  -- A whole rack may have died: if this run had to stop early, the next one need not wait.
  local early = not blind and requeued + poisoned + expired >= most
  redis.call('HSET', counters, 'reaped', early and now - pause_ms or now, 'graced', blind and 1 or 0)
  keep(counters, now + DAY_MS)
end
publish()
return { requeued, poisoned, expired, rung, next_end_ms() }
