-- ARGV: worker, then rows of id, epoch, index, tokens, terminal state or '', event
-- Returns a flat list of refused ids and reasons.
local worker = ARGV[3]
local refused, seen = {}, {}

go_on_when_full()

local function refuse(id, reason)
  seen[id] = 'refused'
  refused[#refused + 1] = id
  refused[#refused + 1] = reason
end

-- Whether a job's fields show that this worker has leased it, under this epoch. The epoch alone is
-- not enough: a Redis that has lost its last moment (with the claim) issues the same one again.
local function is_ours(f, epoch) return tonumber(f[2]) == epoch and f[7] == worker end

-- Why an event cannot be written to a job that does not run under this epoch; nil if it has been
-- written already, by an earlier call whose answer was lost.
local function reason_against(f, epoch, index, terminal)
  if not f[1] or not is_ours(f, epoch) or f[1] == 'waiting' then return 'fenced' end
  if index < tonumber(f[3]) or (terminal ~= '' and f[1] == terminal) then return nil end
  if f[1] == 'cancelled' or f[1] == 'expired' then return f[1] end
  return 'fenced'
end

local function write(job, index, count, terminal, event)
  if terminal ~= '' then
    finish(job, terminal, event)
    return
  end
  local is_first = job.next == 0
  local added
  if is_first then
    added = redis.pcall('XADD', journal_key(job.id), '1-' .. index, 'e', event)
  else
    added = redis.pcall('XADD', journal_key(job.id), 'NOMKSTREAM', '1-' .. index, 'e', event)
  end
  if is_error(added) then
    -- The journal's key has another type: no worker could continue the job.
    fail(job, 'failed', 'store_unavailable', 'the journal of the answer is not ours')
    refuse(job.id, 'broken')
    return
  end
  if not added then
    -- The journal was deleted: the answer is generated again, from its first token.
    redis.call('HSET', job_key(job.id), 'next', 0)
    local whole = read(job.id)
    requeue(whole, whole.lost)
    refuse(job.id, 'fenced')
    return
  end
  redis.call('HSET', job_key(job.id), 'next', job.next + count)
  redis.call('ZADD', leases, now + lease_ms, job.id)
  if is_first then
    redis.call('PEXPIREAT', journal_key(job.id), kept_until(job.deadline))
  end
  emit(job.reply, event)
end

local function append(id, epoch, index, count, terminal, event)
  local f = redis.pcall('HMGET', job_key(id), 'state', 'epoch', 'next', 'deadline', 'cancel', 'reply',
    'worker')
  if is_error(f) then
    refuse(id, 'broken')
    return
  end
  if f[1] ~= 'running' or not is_ours(f, epoch) then
    local reason = reason_against(f, epoch, tonumber(index), terminal)
    if reason then refuse(id, reason) end
    return
  end
  local job = {
    id = id, next = tonumber(f[3]), deadline = tonumber(f[4]), reply = f[6], state = f[1],
    worker = worker,
  }
  local at = tonumber(index)
  if f[5] == '1' then
    fail_cancelled(job)
    refuse(id, 'cancelled')
  elseif job.deadline <= now then
    fail_expired(job)
    refuse(id, 'expired')
  elseif at == job.next then
    write(job, index, count, terminal, event)
  elseif at + count <= job.next and terminal == '' then
    redis.call('ZADD', leases, now + lease_ms, id)
  else
    -- Redis has lost earlier writes of this worker (a restart without its last second). Generation
    -- continues from what is left; it is no worker's fault, so none counts as lost.
    local whole = read(id)
    requeue(whole, whole.lost)
    refuse(id, 'fenced')
  end
end

for i = 4, #ARGV, 6 do
  if seen[ARGV[i]] ~= 'refused' then
    append(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4],
      ARGV[i + 5])
  end
end
publish()
return refused
