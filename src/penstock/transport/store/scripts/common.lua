-- Precedes every script. KEYS[1] is the queue's prefix, KEYS[2] the Celery list of its doorbells,
-- which is named like the queue. ARGV[1] is a lease in ms, ARGV[2] the journal's time in ms.
-- All times are Unix ms by Redis's clock.
local prefix, bells = KEYS[1], KEYS[2]
local lease_ms, journal_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local DAY_MS = 86400000
local RATE_WINDOW_MS = 60000
local MOST_JOBS = 1e14

local arrivals = prefix .. 'arrivals'
local leases = prefix .. 'leases'
local deadlines = prefix .. 'deadlines'
local returned = prefix .. 'returned'
local counters = prefix .. 'counters'
local unheard = prefix .. 'unheard'
local live_workers = prefix .. 'workers'
local taken = prefix .. 'taken'

local function job_key(id) return prefix .. 'job:' .. id end
local function journal_key(id) return prefix .. 'journal:' .. id end
local function tenants_key(priority) return prefix .. 'tenants:' .. priority end
local function served_key(priority) return prefix .. 'served:' .. priority end
local function line_key(priority, tenant) return prefix .. 'waiting:' .. priority .. ':' .. tenant end

-- Redis checks its memory limit at a script's first write only. This write needs no memory, so a
-- full Redis refuses new jobs but lets accepted ones finish, which frees memory.
local function go_on_when_full() redis.call('DEL', prefix .. 'none') end

-- Extend a key's life to `until_ms`; never shorten it.
local function keep(key, until_ms)
  local ttl = redis.call('PTTL', key)
  if ttl == -1 or (ttl >= 0 and now + ttl < until_ms) then
    redis.call('PEXPIREAT', key, until_ms)
  end
end

local function kept_until(deadline) return math.max(deadline, now) + journal_ms end

local function number_at(field) return tonumber(redis.call('HGET', counters, field) or 0) end

-- Whether a `pcall` has failed because its key has another type.
local function is_error(answer) return type(answer) == 'table' and answer.err ~= nil end

-- The job's fields; nil if there is no such job or its key has another type: one broken job must
-- not stop the scripts for all others.
local function read(id)
  local f = redis.pcall('HMGET', job_key(id), 'state', 'epoch', 'next', 'lost', 'deadline',
    'cancel', 'reply', 'priority', 'tenant', 'cost', 'seq', 'created', 'worker')
  if is_error(f) or not f[1] then return nil end
  return {
    id = id, state = f[1], epoch = tonumber(f[2]), next = tonumber(f[3]), lost = tonumber(f[4]),
    deadline = tonumber(f[5]), cancel = f[6] == '1', reply = f[7], priority = f[8],
    tenant = f[9], cost = tonumber(f[10]), seq = tonumber(f[11]), created = tonumber(f[12]),
    worker = f[13],
  }
end

-- Live events, gathered by channel and published once a channel at the script's end.
local outgoing = {}
local ended = {}
local channels = {}
local function emit(channel, event)
  local events = outgoing[channel]
  if not events then
    events = {}
    outgoing[channel] = events
    ended[channel] = {}
    channels[#channels + 1] = channel
  end
  events[#events + 1] = event
end

-- If nobody receives a job's last event, the process that would account for it may be dead. The job
-- is then kept for another one to do so (`unheard.lua`), unless its client left on purpose.
local function publish()
  for _, channel in ipairs(channels) do
    local heard = redis.call('PUBLISH', channel, '[' .. table.concat(outgoing[channel], ',') .. ']')
    for _, id in ipairs(ended[channel]) do
      if heard > 0 or redis.pcall('HEXISTS', job_key(id), 'left') == 1 then
        redis.call('HDEL', job_key(id), 'job')
      else
        redis.pcall('ZADD', unheard, now, id)
        keep(unheard, now + journal_ms)
      end
    end
  end
end

-- Doorbells: what Celery's producer would push for the task `penstock.doorbell` (protocol 2; the
-- body is `[[], {}, {"callbacks": null, ...}]`). They carry no work, so they are interchangeable.
local function uuid(seed)
  local h = redis.sha1hex(seed)
  return h:sub(1, 8) .. '-' .. h:sub(9, 12) .. '-4' .. h:sub(14, 16) .. '-8' .. h:sub(18, 20)
    .. '-' .. h:sub(21, 32)
end

local function ring(count)
  local BELL = '{"body":"W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBu'
    .. 'dWxsLCAiY2hvcmQiOiBudWxsfV0=","content-encoding":"utf-8","content-type":"application/json",'
    .. '"headers":{"lang":"py","task":"penstock.doorbell","id":"@ID@","shadow":null,"eta":null,'
    .. '"expires":null,"group":null,"group_index":null,"retries":0,"timelimit":[null,null],'
    .. '"root_id":"@ID@","parent_id":null,"argsrepr":"()","kwargsrepr":"{}","origin":"penstock",'
    .. '"ignore_result":true,"replaced_task_nesting":0,"stamped_headers":null,"stamps":{}},'
    .. '"properties":{"correlation_id":"@ID@","reply_to":"","delivery_mode":2,"delivery_info":'
    .. '{"exchange":"","routing_key":@QUEUE@},"priority":0,"body_encoding":"base64",'
    .. '"delivery_tag":"@TAG@"}}'
  for _ = 1, count do
    local number = redis.call('HINCRBY', counters, 'bells', 1)
    local seed = prefix .. clock[1] .. '.' .. clock[2] .. '.' .. number
    local parts = { ID = uuid(seed .. 'id'), TAG = uuid(seed .. 'tag'), QUEUE = cjson.encode(bells) }
    redis.call('LPUSH', bells, (BELL:gsub('@(%u+)@', parts)))
  end
end

-- Remove doorbells that no waiting job needs, newest first, and no other messages.
local function mute(most)
  local surplus = math.min(redis.call('LLEN', bells) - redis.call('ZCARD', arrivals), most)
  for _ = 1, surplus do
    local message = redis.call('LINDEX', bells, 0)
    if not message or not message:find('"penstock.doorbell"', 1, true) then return end
    redis.call('LPOP', bells)
  end
end

-- Fair shares within a priority: a tenant's score is the virtual time at which its next job starts;
-- each claim moves it on by the job's cost. A tenant that comes back starts no earlier than the
-- others are now (no credit for idle time) and no earlier than where it left (its use is not
-- forgotten), which `served` remembers for as long as it matters.
local function join_tenants(priority, tenant, until_ms)
  local tenants, served = tenants_key(priority), served_key(priority)
  if not redis.call('ZSCORE', tenants, tenant) then
    local left_at = tonumber(redis.call('ZSCORE', served, tenant) or 0)
    redis.call('ZREM', served, tenant)
    redis.call('ZADD', tenants, math.max(number_at('v:' .. priority), left_at), tenant)
  end
  keep(tenants, until_ms)
end

local function leave_tenants_if_done(priority, tenant)
  if redis.call('EXISTS', line_key(priority, tenant)) == 1 then return end
  local tenants, served = tenants_key(priority), served_key(priority)
  local start = redis.call('ZSCORE', tenants, tenant)
  if not start then return end
  redis.call('ZREM', tenants, tenant)
  local virtual = number_at('v:' .. priority)
  if tonumber(start) > virtual then
    redis.call('ZADD', served, start, tenant)
    keep(served, now + DAY_MS)
  end
  redis.call('ZREMRANGEBYSCORE', served, '-inf', virtual)
end

local function count_tokens(cost)
  if redis.call('ZCARD', arrivals) == 0 then
    redis.call('HDEL', counters, 'tokens')
  else
    redis.call('HINCRBY', counters, 'tokens', cost)
  end
end

-- After a loss of keys, the sum has to be made again.
local function count_tokens_again()
  local tokens = 0
  for _, id in ipairs(redis.call('ZRANGE', arrivals, 0, -1)) do
    local cost = redis.pcall('HGET', job_key(id), 'cost')
    tokens = tokens + (tonumber(not is_error(cost) and cost or 0) or 0)
  end
  if tokens > 0 then
    redis.call('HSET', counters, 'tokens', tokens)
  else
    redis.call('HDEL', counters, 'tokens')
  end
end

-- A requeued job keeps its sequence number, so it precedes its tenant's later jobs.
local function put_in_line(job)
  local line = line_key(job.priority, job.tenant)
  local until_ms = kept_until(job.deadline)
  redis.call('ZADD', line, job.seq, job.id)
  redis.call('ZADD', arrivals, job.created, job.id)
  count_tokens(job.cost)
  join_tenants(job.priority, job.tenant, until_ms)
  keep(line, until_ms)
  keep(arrivals, until_ms)
  keep(counters, math.max(until_ms, now + DAY_MS))
end

local function take_out_of_line(job)
  redis.call('ZREM', line_key(job.priority, job.tenant), job.id)
  redis.call('ZREM', returned, job.id)
  redis.call('ZREM', arrivals, job.id)
  count_tokens(-job.cost)
  leave_tenants_if_done(job.priority, job.tenant)
end

-- Returned jobs precede all others of their priority because their clients have already read a part.
-- The score is the order in which they are claimed.
local function join_returned(job)
  redis.call('ZADD', returned, tonumber(job.priority) * MOST_JOBS + job.seq, job.id)
  keep(returned, kept_until(job.deadline))
end

-- How many slots of each worker have a job, by its last claim and what has ended since.
local function free_slot(job)
  if job.state ~= 'running' or not job.worker then return end
  local count = redis.pcall('HGET', taken, job.worker)
  if not is_error(count) and (tonumber(count or 0) or 0) > 0 then
    redis.call('HINCRBY', taken, job.worker, -1)
  end
end

-- Put a job back at the head of its tenant's line. Its turn was lost, so its tenant gets the cost
-- back.
local function requeue(job, lost)
  free_slot(job)
  redis.call('ZREM', leases, job.id)
  redis.call('HSET', job_key(job.id), 'state', 'waiting', 'lost', lost)
  put_in_line(job)
  redis.call('ZINCRBY', tenants_key(job.priority), -job.cost, job.tenant)
  join_returned(job)
  ring(1)
end

-- How often jobs end: a decaying mean over about a minute, from which Retry-After is computed.
local function finishes_per_ms()
  local f = redis.call('HMGET', counters, 'rate', 'rate_at', 'rate_from')
  if not f[1] then return 0, now end
  local decayed = tonumber(f[1]) * math.exp(math.min(tonumber(f[2]) - now, 0) / RATE_WINDOW_MS)
  return decayed, tonumber(f[3])
end

local function count_finish()
  local rate, from = finishes_per_ms()
  redis.call('HSET', counters, 'rate', rate + 1 / RATE_WINDOW_MS, 'rate_at', now, 'rate_from', from)
  keep(counters, now + DAY_MS)
end

-- The only way into a terminal state: remove the job from every set, write its last event to the
-- journal, publish it, and let the remaining keys expire after the journal's time.
local function finish(job, status, event)
  local key, journal = job_key(job.id), journal_key(job.id)
  free_slot(job)
  redis.call('ZREM', leases, job.id)
  redis.call('ZREM', deadlines, job.id)
  redis.call('HSET', key, 'state', status)
  redis.pcall('XADD', journal, '1-' .. string.format('%d', job.next), 'e', event)
  redis.call('PEXPIRE', key, journal_ms)
  redis.call('PEXPIRE', journal, journal_ms)
  emit(job.reply, event)
  table.insert(ended[job.reply], job.id)
  count_finish()
end

local function fail(job, status, code, message)
  finish(job, status, cjson.encode({
    type = 'failed', job_id = job.id, index = job.next, code = code, message = message,
  }))
end

local function fail_cancelled(job) fail(job, 'cancelled', 'cancelled', 'the job was cancelled') end

local function fail_expired(job)
  fail(job, 'expired', 'deadline_exceeded', 'the job did not finish in its time')
end
