-- ARGV: id, job, reply, tenant, priority, cost, deadline, most waiting jobs, most waiting tokens,
-- digest, heads of its prompt as `digest:tokens:kept ...` or ''
-- Returns {1}: accepted; {0}: this id exists already; {-1, jobs that must end first, ends/s}: full.
local id, payload, reply, tenant, priority = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local cost, deadline = tonumber(ARGV[8]), tonumber(ARGV[9])
local most_jobs, most_tokens = tonumber(ARGV[10]), tonumber(ARGV[11])

if redis.call('EXISTS', job_key(id)) == 1 then return { 0 } end

local waiting, tokens = redis.call('ZCARD', arrivals), number_at('tokens')
local over_jobs, over_tokens = waiting + 1 - most_jobs, tokens + cost - most_tokens
-- A job that exceeds the limit of tokens by itself may wait if it is the only one.
if over_jobs > 0 or (over_tokens > 0 and waiting > 0) then
  local over = over_jobs
  if waiting > 0 then over = math.max(over, math.ceil(over_tokens * waiting / math.max(tokens, 1))) end
  local rate, from = finishes_per_ms()
  -- Until the window is full, the mean has only this part of its final weight.
  local weight = 1 - math.exp(math.min(from - now, -1000) / RATE_WINDOW_MS)
  return { -1, over, string.format('%.6f', rate * 1000 / weight) }
end

local job = {
  id = id, reply = reply, tenant = tenant, priority = priority, cost = cost, deadline = deadline,
  seq = redis.call('HINCRBY', counters, 'seq', 1), created = now,
}
redis.call('HSET', job_key(id), 'job', payload, 'state', 'waiting', 'epoch', 0, 'next', 0,
  'lost', 0, 'deadline', deadline, 'cancel', 0, 'reply', reply, 'priority', priority,
  'tenant', tenant, 'cost', cost, 'seq', job.seq, 'created', now, 'worker', '', 'claim', '',
  'digest', ARGV[12])
-- If the job was deleted, the journal of its earlier life may be left.
redis.call('DEL', journal_key(id))
if (ARGV[13] or '') ~= '' then redis.call('HSET', job_key(id), 'heads', ARGV[13]) end
redis.call('ZADD', deadlines, deadline, id)
put_in_line(job)
keep(job_key(id), kept_until(deadline))
keep(deadlines, kept_until(deadline))
ring(1)
return { 1 }
