-- ARGV: worker, then pairs of id, epoch
-- Returns a flat list of refused ids and reasons.
local worker = ARGV[3]
local refused = {}

go_on_when_full()

local function refuse(id, reason)
  refused[#refused + 1] = id
  refused[#refused + 1] = reason
end

for i = 4, #ARGV, 2 do
  local id, epoch = ARGV[i], tonumber(ARGV[i + 1])
  local job = read(id)
  if not job or job.epoch ~= epoch or job.worker ~= worker then
    refuse(id, 'fenced')
  elseif job.state == 'cancelled' or job.state == 'expired' then
    refuse(id, job.state)
  elseif job.state ~= 'running' then
    refuse(id, 'fenced')
  elseif job.cancel then
    fail_cancelled(job)
    refuse(id, 'cancelled')
  elseif job.deadline <= now then
    fail_expired(job)
    refuse(id, 'expired')
  else
    redis.call('ZADD', leases, now + lease_ms, id)
  end
end
publish()
return refused
