-- ARGV: id, reply
-- Returns 1, or 0 if there is no such job or its events already go to another process.
go_on_when_full()
if redis.call('HGET', job_key(ARGV[3]), 'reply') ~= ARGV[4] then return 0 end
redis.call('HSET', job_key(ARGV[3]), 'left', 1)
return 1
