-- ARGV: worker, claim's token, the token's life in ms, '1' for returned jobs only, most jobs,
-- least jobs (if so many wait), jobs that the worker has leased already, its slots (0: unknown),
-- longest time in ms for which a job is left to a worker that holds its prompt's head (0: affinity is
-- off), microseconds in which this worker computes a token of a prompt (0: unknown)
-- Returns {{jobs that still wait, ms until one that was left to another worker may be taken (-1: none
-- was left)}, {job, epoch, next index, whether this worker (1) or another one (2) holds a head of its
-- prompt or no worker is known to (0)}, ...} in order. The token makes a repeated call (the answer was
-- lost with a connection) return the same jobs and epochs.
local token, token_ms = ARGV[4], tonumber(ARGV[5])
local only_returned = ARGV[6] == '1'
local most, least, held = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local slots, longest_ms = tonumber(ARGV[10] or 0), tonumber(ARGV[11] or 0)
local token_us = tonumber(ARGV[12] or 0)
local token_key = prefix .. 'claim:' .. token

go_on_when_full()

-- What affinity knows of the waiting jobs that were looked at, by id, and when to look again.
local places = {}
local again_ms = -1

local function answer(ids)
  local rows = { { redis.call('ZCARD', arrivals), again_ms } }
  for i, id in ipairs(ids) do
    local f = redis.call('HMGET', job_key(id), 'job', 'epoch', 'next')
    rows[i + 1] = { f[1], tonumber(f[2]), tonumber(f[3]), places[id] and places[id].held or 0 }
  end
  return rows
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

local WINDOW = 8
local MOST_PASSED = 4
local LEAST_SHARE = 0.5
local LEAST_LEFT_MS = 5
local OWN, UNKNOWN, OTHERS, LEFT = 1, 2, 3, 4

if token_us == 0 then token_us = number_at('token_us') end
if token_us == 0 then token_us = 500 end

-- Whether a holder that is as free as this worker, or is worth its load, may have the job. A long
-- head outweighs a few jobs; one that is a small part of its prompt none.
local function has_room(holder, share)
  local jobs, most = occupancy(holder)
  if not jobs or not most or jobs >= most then return false end
  return jobs - held <= share * math.max(2, most / 4)
end

-- Where a waiting job should run: here, anywhere, at a busy worker, or at a free one that gets it for
-- as long as the prefill takes that it saves.
local function place_of(id)
  if places[id] then return places[id] end
  local place = { class = UNKNOWN, held = 0 }
  places[id] = place
  local heads = heads_of(id)
  if #heads == 0 then return place end
  local all, own = math.max(heads[#heads].tokens, 1), tokens_held(heads)
  if own > 0 then place.held = 1 end
  if own >= LEAST_SHARE * all then
    place.class = OWN
    return place
  end
  local holder, tokens = longest_holder(heads)
  if not holder or tokens <= own then return place end
  if own == 0 then place.held = 2 end
  if tokens < LEAST_SHARE * all and own > 0 then return place end
  place.class = OTHERS
  local saved_ms = math.min((tokens - own) * token_us / 1000, longest_ms)
  local created = tonumber(quietly('HGET', job_key(id), 'created') or 0) or 0
  local left_ms = created + saved_ms - now
  if left_ms >= 1 and saved_ms >= LEAST_LEFT_MS and has_room(holder, (tokens - own) / all) then
    place.class, place.holder, place.left_ms = LEFT, holder, left_ms
  end
  return place
end

local function leave_to_holder(place)
  if place.is_left then return end -- a claim of several jobs looks at the same ones each time
  place.is_left = true
  call_worker(place.holder)
  local ms = math.ceil(place.left_ms)
  if again_ms < 0 or ms < again_ms then again_ms = ms end
end

-- The job of a tenant's line that is claimed: of its first ones, the first that fits here best. nil if
-- all that were looked at are left to others; false if there is none. The first one is passed by a few
-- times only.
local function choose(priority, tenant)
  local ids = redis.call('ZRANGE', line_key(priority, tenant), 0, longest_ms > 0 and WINDOW - 1 or 0)
  if not ids[1] then return false end
  if longest_ms == 0 then return ids[1] end
  local best, best_class = nil, LEFT
  for i, id in ipairs(ids) do
    local place = place_of(id)
    if place.class == LEFT then leave_to_holder(place) end
    if place.class < best_class then best, best_class = id, place.class end
    if best_class == OWN then break end
    if i == 1 and best and #ids > 1 then
      local passed = tonumber(quietly('HGET', job_key(id), 'passed') or 0) or 0
      if passed >= MOST_PASSED then break end
    end
  end
  local is_passed = best and best ~= ids[1] and places[ids[1]].class ~= LEFT
  -- Of a job that is gone nothing is written: the key would never expire, and bar the job's id.
  if is_passed and quietly('HEXISTS', job_key(ids[1]), 'state') == 1 then
    quietly('HINCRBY', job_key(ids[1]), 'passed', 1)
  end
  return best
end

-- The next job by its tenant's turn within a priority; nil if none waits, or all that were looked at
-- are left to others, whose tenants keep their turns.
local function pop(priority)
  local tenants = tenants_key(priority)
  local left = 0
  while left < WINDOW do
    local first = redis.call('ZRANGE', tenants, left, left, 'WITHSCORES')
    if not first[1] then return nil end
    local tenant, start = first[1], tonumber(first[2])
    local id = choose(priority, tenant)
    local job = id and read(id)
    if id then
      redis.call('ZREM', line_key(priority, tenant), id)
      redis.call('ZREM', arrivals, id)
      redis.call('ZREM', returned, id)
    end
    if job then count_tokens(-job.cost) end
    if job and job.deadline > now then
      redis.call('HSET', counters, 'v:' .. priority, math.max(number_at('v:' .. priority), start))
      redis.call('ZADD', tenants, start + job.cost, tenant)
    end
    if id == nil then
      left = left + 1
    else
      leave_tenants_if_done(priority, tenant)
    end
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
  if longest_ms > 0 then
    place_of(job.id)
    hold(heads_of(job.id))
  end
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
  if longest_ms > 0 then redis.call('HSET', counters, 'token_us', token_us) end
end
if not only_returned then note_occupancy(held + #claimed, slots) end
publish()
return answer(claimed)
