-- ARGV: id
-- Returns 'cancelled', 'requested' (it runs: its worker learns of it at its next write), the
-- terminal state that it already had, or nil if there is no such job.
local job = read(ARGV[3])

if not job then return false end
go_on_when_full()
if job.state == 'running' then
  redis.call('HSET', job_key(job.id), 'cancel', 1)
  return 'requested'
end
if job.state ~= 'waiting' then return job.state end
take_out_of_line(job)
fail_cancelled(job)
mute(1)
publish()
return 'cancelled'
