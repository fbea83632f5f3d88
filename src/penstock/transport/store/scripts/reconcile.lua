-- ARGV: most waiting jobs to look at, then ids of jobs
-- Every other script moves a job from one place to the next in one step. An open job without a place
-- has lost it because a key was deleted. It gets its place back here.
-- Returns {jobs put back in line, jobs leased again, entries put back or removed, {open job, ms until
-- its keys go, ...}}. A job that is leased again gets no new epoch: its worker renews the lease, or
-- the reaper finds it run out.
local most = tonumber(ARGV[3])
local in_line, leased, entries = 0, 0, 0
local last_seq = 0
local open = {}

go_on_when_full()

local function is_complete(job)
  return job.epoch and job.deadline and job.priority and job.tenant and job.cost and job.seq
    and job.created and true
end

local function has_a_place(job)
  return redis.call('ZSCORE', line_key(job.priority, job.tenant), job.id)
    and redis.call('ZSCORE', arrivals, job.id)
    and redis.call('ZSCORE', tenants_key(job.priority), job.tenant)
    and (job.epoch == 0 or redis.call('ZSCORE', returned, job.id))
end

local function mend_waiting(job)
  if has_a_place(job) then return end
  put_in_line(job)
  -- An earlier attempt: its client has read a part.
  if job.epoch > 0 then join_returned(job) end
  ring(1)
  in_line = in_line + 1
end

local function mend_running(job)
  leased = leased + redis.call('ZADD', leases, 'NX', now + lease_ms, job.id)
end

local function mend_open(job)
  entries = entries + redis.call('ZADD', deadlines, 'NX', job.deadline, job.id)
  if job.state == 'waiting' then mend_waiting(job) else mend_running(job) end
  for _, key in ipairs({ deadlines, leases, arrivals }) do keep(key, kept_until(job.deadline)) end
  last_seq = math.max(last_seq, job.seq)
  open[#open + 1] = job.id
  open[#open + 1] = kept_until(job.deadline) - now
end

-- A job that ended without a listener keeps its payload until a process has accounted for it.
local function mend_ended(job)
  local key = job_key(job.id)
  if redis.call('HEXISTS', key, 'job') == 0 or redis.call('HEXISTS', key, 'left') == 1 then return end
  entries = entries + redis.call('ZADD', unheard, 'NX', now, job.id)
  keep(unheard, now + journal_ms)
end

-- A job that does not wait is not counted among those that do. One call looks at a part of them; the
-- next one goes on from there.
local function remove_strays()
  local from = number_at('reconciled')
  local ids = redis.call('ZRANGE', arrivals, from, from + most - 1)
  for _, id in ipairs(ids) do
    local job = read(id)
    if not job or job.state ~= 'waiting' then
      redis.call('ZREM', arrivals, id)
      redis.call('ZREM', returned, id)
      entries = entries + 1
      from = from - 1
    end
  end
  if #ids < most then from = 0 else from = from + most end
  if from > 0 or number_at('reconciled') > 0 then redis.call('HSET', counters, 'reconciled', from) end
end

-- The counters are those of new jobs: a later job comes after those that wait, and pays what they do.
local function mend_counters()
  local are_lost = number_at('seq') < last_seq
  if are_lost then
    redis.call('HSET', counters, 'seq', last_seq)
    for priority = 0, 9 do
      local first = redis.call('ZRANGE', tenants_key(priority), 0, 0, 'WITHSCORES')
      if first[2] then redis.call('HSETNX', counters, 'v:' .. priority, first[2]) end
    end
  end
  local tokens = redis.call('HGET', counters, 'tokens')
  local has_jobs = redis.call('ZCARD', arrivals) > 0
  if are_lost or in_line + entries > 0 or has_jobs ~= (tonumber(tokens or 0) > 0) then count_tokens_again() end
  if redis.call('EXISTS', counters) == 1 then keep(counters, now + DAY_MS) end
end

for i = 4, #ARGV do
  local job = read(ARGV[i])
  if job and is_complete(job) then
    if job.state == 'waiting' or job.state == 'running' then mend_open(job) else mend_ended(job) end
  end
end
remove_strays()
mend_counters()
return { in_line, leased, entries, open }
