-- ARGV: worker, claim's token, the token's time in ms, '1' for none but returned jobs
-- Returns {job, epoch, next index}, or nil where nothing waits. The token makes a repeated call
-- (the answer was lost with a connection) give the same job under the same epoch.
local worker, token, token_ms = ARGV[3], ARGV[4], tonumber(ARGV[5])
local only_returned = ARGV[6] == '1'
local token_key = prefix .. 'claim:' .. token

go_on_when_full()

local function answer(id)
  local f = redis.call('HMGET', job_key(id), 'job', 'epoch', 'next')
  return { f[1], tonumber(f[2]), tonumber(f[3]) }
end

local function claimed_before()
  local id = redis.call('GET', token_key)
  if not id then return nil end
  local f = redis.call('HMGET', job_key(id), 'state', 'claim')
  if f[1] == 'running' and f[2] == token then
    redis.call('ZADD', leases, now + lease_ms, id)
    return id
  end
  return nil
end

-- The first job of this priority or a better one that a worker had before; nil where none waits.
-- It goes on with a turn that it has had, so the others' turns are where they were.
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

-- The next job by priority, then its tenant's turn; nil where none waits.
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

local function lease(job)
  redis.call('HINCRBY', job_key(job.id), 'epoch', 1)
  redis.call('HSET', job_key(job.id), 'state', 'running', 'worker', worker, 'claim', token)
  redis.call('ZADD', leases, now + lease_ms, job.id)
  keep(leases, kept_until(job.deadline))
  redis.call('SET', token_key, job.id, 'PX', token_ms)
end

local again = claimed_before()
if again then return answer(again) end

local function next_job(priority)
  return pop_returned(priority) or (not only_returned and pop(priority) or nil)
end

for priority = 0, 9 do
  local job = next_job(priority)
  while job do
    if job.deadline > now then
      lease(job)
      publish()
      return answer(job.id)
    end
    fail_expired(job)
    job = next_job(priority)
  end
end
publish()
return false
