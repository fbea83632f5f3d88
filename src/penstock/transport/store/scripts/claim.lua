-- ARGV: worker, claim's token, the token's life in ms, '1' for returned jobs only, most jobs,
-- least jobs (if so many wait), jobs that the worker has leased already
-- Returns {jobs that still wait, {job, epoch, next index}, ...} in order. The token makes a repeated
-- call (the answer was lost with a connection) return the same jobs and epochs.
local worker, token, token_ms = ARGV[3], ARGV[4], tonumber(ARGV[5])
local only_returned = ARGV[6] == '1'
local most, least, held = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local token_key = prefix .. 'claim:' .. token

go_on_when_full()

local function answer(ids)
  local found = { redis.call('ZCARD', arrivals) }
  for i, id in ipairs(ids) do
    local f = redis.call('HMGET', job_key(id), 'job', 'epoch', 'next')
    found[i + 1] = { f[1], tonumber(f[2]), tonumber(f[3]) }
  end
  return found
end

local function claimed_before()
  local ids = {}
  for _, id in ipairs(redis.call('LRANGE', token_key, 0, -1)) do
    local f = redis.call('HMGET', job_key(id), 'state', 'claim')
    if f[1] == 'running' and f[2] == token then
      redis.call('ZADD', leases, now + lease_ms, id)
      ids[#ids + 1] = id
    end
  end
  return ids
end

-- How many jobs to claim: up to the worker's share of all that wait and run, so that the first of
-- several idle workers does not take everything.
local function share()
  local workers = math.max(redis.call('ZCOUNT', live_workers, '(' .. now, '+inf'), 1)
  local jobs = redis.call('ZCARD', arrivals) + redis.call('ZCARD', leases)
  return math.min(most, math.max(least, math.ceil(jobs / workers) - held))
end

-- The first job of this priority or a better one that a worker had before; nil if none waits.
-- It continues a turn that it has already had, so the others' turns do not move.
local function pop_returned(priority)
  local first = redis.call('ZRANGE', returned, 0, 0, 'WITHSCORES')
  if not first[1] or tonumber(first[2]) >= (priority + 1) * MOST_JOBS then return nil end
  local job = read(first[1])
  redis.call('ZREM', returned, first[1])
  if not job or job.state ~= 'waiting' then return pop_returned(priority) end
  if job.deadline > now then
    redis.call('ZINCRBY', tenants_key(job.priority), job.cost, job.tenant)
  end
  take_out_of_line(job)
  return job
end

-- The next job by its tenant's turn within a priority; nil if none waits.
local function pop(priority)
  local tenants = tenants_key(priority)
  while true do
    local first = redis.call('ZRANGE', tenants, 0, 0, 'WITHSCORES')
    if not first[1] then return nil end
    local tenant, start = first[1], tonumber(first[2])
    local id = redis.call('ZPOPMIN', line_key(priority, tenant))[1]
    local job = id and read(id)
    if id then redis.call('ZREM', arrivals, id) end
    if id then redis.call('ZREM', returned, id) end
    if job then count_tokens(-job.cost) end
    if job and job.deadline > now then
      redis.call('HSET', counters, 'v:' .. priority, math.max(number_at('v:' .. priority), start))
      redis.call('ZADD', tenants, start + job.cost, tenant)
    end
    leave_tenants_if_done(priority, tenant)
    if job then return job end
  end
end

-- A journal that is gone, or has lost its beginning, is written again from the first token.
local function mend_journal(job)
  if job.next == 0 then return end
  local first = redis.pcall('XRANGE', journal_key(job.id), '-', '+', 'COUNT', 1)
  if is_error(first) or (first[1] and first[1][1] == '1-0') then return end
  redis.call('DEL', journal_key(job.id))
  redis.call('HSET', job_key(job.id), 'next', 0)
end

local function lease(job)
  mend_journal(job)
  redis.call('HINCRBY', job_key(job.id), 'epoch', 1)
  redis.call('HSET', job_key(job.id), 'state', 'running', 'worker', worker, 'claim', token)
  redis.call('ZADD', leases, now + lease_ms, job.id)
  keep(leases, kept_until(job.deadline))
end

local function next_job(priority)
  return pop_returned(priority) or (not only_returned and pop(priority) or nil)
end

local claimed = claimed_before()
if #claimed > 0 then return answer(claimed) end

local target = share()
for priority = 0, 9 do
  while #claimed < target do
    local job = next_job(priority)
    if not job then break end
    if job.deadline > now then
      lease(job)
      claimed[#claimed + 1] = job.id
    else
      fail_expired(job)
    end
  end
end
if #claimed > 0 then
  redis.call('DEL', token_key)
  redis.call('RPUSH', token_key, unpack(claimed))
  redis.call('PEXPIRE', token_key, token_ms)
  mute(#claimed)
end
publish()
return answer(claimed)
