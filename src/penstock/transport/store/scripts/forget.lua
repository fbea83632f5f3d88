-- ARGV: worker, digests of heads that are no longer in its cache
-- Returns 1. The others of this worker live on.
go_on_when_full()
for i = 4, #ARGV do forget(ARGV[i]) end
quietly('PEXPIRE', heads_key(worker), HEADS_LIFE_MS)
return 1
