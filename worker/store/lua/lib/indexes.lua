-- Takes out of a set what is gone, as Redis itself finds expired keys: by samples, until one has little of it.
local function trim(key, sample, remove, is_gone)
  local gone = 100
  for _ = 1, 50 do
    if gone < 20 then return end
    gone = 0
    for _, id in ipairs(call(sample, key, 100)) do
      if is_gone(id) then gone = gone + call(remove, key, id) end
    end
  end
end

local function trim_owner(owner)
  local jobs = JOBS_OF_OWNER..owner
  trim(jobs, 'ZRANDMEMBER', 'ZREM', function(id) return call('EXISTS', JOB..id) == 0 end)
  if call('EXISTS', jobs) == 0 then call('SREM', OWNERS, owner) end
end

-- a worker of an older version, or another program, may have ended some
local function trim_open(queue)
  trim(open_of_model(queue), 'SRANDMEMBER', 'SREM', function(id) return not call('ZSCORE', OPEN, id) end)
end

-- a job that another program deleted
local function forget(id)
  call('ZREM', OPEN, id)
  call('ZREM', DUE, id)
  call('SREM', PARKED, id)
  release(0)
end
