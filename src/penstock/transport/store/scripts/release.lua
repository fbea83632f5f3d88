-- ARGV: id, epoch, worker
-- Returns 1 if the job was released, now or by an earlier call, else 0.
local job, epoch, worker = read(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

go_on_when_full()

if not job or job.epoch ~= epoch or job.worker ~= worker then return 0 end
if job.state == 'waiting' then return 1 end
if job.state ~= 'running' then return 0 end
if job.cancel then
  fail_cancelled(job)
elseif job.deadline <= now then
  fail_expired(job)
else
  requeue(job, job.lost)
end
publish()
return 1
