-- Follows common.lua in claim.lua and forget.lua, whose ARGV[3] is a worker: which worker holds the
-- heads of which prompts (docs/adr/0015). All of it is advice: a key that is gone or of another type
-- costs a prefill.
local worker = ARGV[3]
local holders = prefix .. 'holders'

local MOST_HEADS = 1024
local HEADS_LIFE_MS = 3600000
local CALL_LIFE_MS = 2000

local function heads_key(name) return prefix .. 'heads:' .. name end
local function called_key(name) return prefix .. 'called:' .. name end

local function quietly(...)
  local answer = redis.pcall(...)
  if is_error(answer) then return nil end
  return answer
end

-- The heads of a job's prompt, the shortest first.
local function heads_of(id)
  local heads = {}
  local text = quietly('HGET', job_key(id), 'heads')
  for digest, tokens, kept in (text or ''):gmatch('(%x+):(%d+):(%d)') do
    heads[#heads + 1] = { digest = digest, tokens = tonumber(tokens), kept = kept == '1' }
  end
  return heads
end

local function digests_of(heads)
  local digests = {}
  for i, head in ipairs(heads) do digests[i] = head.digest end
  return digests
end

-- Tokens of the longest of these heads that this worker holds.
local function tokens_held(heads)
  if #heads == 0 then return 0 end
  local scores = quietly('ZMSCORE', heads_key(worker), unpack(digests_of(heads))) or {}
  for i = #heads, 1, -1 do
    if scores[i] then return heads[i].tokens end
  end
  return 0
end

-- The live worker that holds the longest of these heads, and its tokens. nil if it is this one.
local function longest_holder(heads)
  if #heads == 0 then return nil end
  local names = quietly('HMGET', holders, unpack(digests_of(heads))) or {}
  local dead = {}
  for i = #heads, 1, -1 do
    local name = names[i]
    if name == worker then return nil end
    if name and not dead[name] then
      local until_ms = quietly('ZSCORE', live_workers, name)
      if until_ms and tonumber(until_ms) > now then return name, heads[i].tokens end
      dead[name] = true
    end
  end
  return nil
end

local function forget(digest)
  quietly('ZREM', heads_key(worker), digest)
  if quietly('HGET', holders, digest) == worker then quietly('HDEL', holders, digest) end
end

local function hold(heads)
  local key = heads_key(worker)
  local added = false
  for _, head in ipairs(heads) do
    if head.kept then
      quietly('ZADD', key, now, head.digest)
      quietly('HSET', holders, head.digest, worker)
      added = true
    end
  end
  if not added then return end
  local surplus = (quietly('ZCARD', key) or 0) - MOST_HEADS
  if surplus > 0 then
    for _, digest in ipairs(quietly('ZRANGE', key, 0, surplus - 1) or {}) do forget(digest) end
  end
  quietly('PEXPIRE', key, HEADS_LIFE_MS)
  quietly('PEXPIRE', holders, HEADS_LIFE_MS)
  -- Entries of workers that have died are never removed one by one.
  local workers = quietly('ZCARD', live_workers) or 0
  if (quietly('HLEN', holders) or 0) > MOST_HEADS * (workers + 1) then quietly('DEL', holders) end
end

-- How many slots of a worker have a job, and how many it has; nil if unknown.
local function occupancy(name)
  local f = quietly('HMGET', taken, name, 'slots:' .. name) or {}
  return tonumber(f[1] or nil), tonumber(f[2] or nil)
end

local function note_occupancy(jobs, slots)
  if slots == 0 then return end
  quietly('HSET', taken, worker, jobs, 'slots:' .. worker, slots)
  quietly('PEXPIRE', taken, DAY_MS)
  local workers = quietly('ZCARD', live_workers) or 0
  if (quietly('HLEN', taken) or 0) > 4 * workers + 64 then quietly('DEL', taken) end
end

-- Wake a worker, whichever gets the next doorbell.
local function call_worker(name)
  if quietly('LLEN', called_key(name)) == 0 then quietly('LPUSH', called_key(name), '1') end
  quietly('PEXPIRE', called_key(name), CALL_LIFE_MS)
end
