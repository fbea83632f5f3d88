-- ARGV: worker, digests of heads that are no longer in its cache, or '*' for all of them
-- Returns 1. The others of this worker live on.
go_on_when_full()
if ARGV[4] == '*' then
  for _, digest in ipairs(quietly('ZRANGE', heads_key(worker), 0, -1) or {}) do forget(digest) end
else
  for i = 4, #ARGV do forget(ARGV[i]) end
end
quietly('PEXPIRE', heads_key(worker), HEADS_LIFE_MS)
return 1
