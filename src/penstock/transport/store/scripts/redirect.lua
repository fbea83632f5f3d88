-- ARGV: id, reply
-- Returns 1, or 0 if there is no such job.
go_on_when_full()
if redis.call('EXISTS', job_key(ARGV[3])) == 0 then return 0 end
redis.call('HSET', job_key(ARGV[3]), 'reply', ARGV[4])
redis.call('HDEL', job_key(ARGV[3]), 'left')
redis.call('ZREM', unheard, ARGV[3])
return 1
