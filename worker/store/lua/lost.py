"""What becomes of the jobs of workers that are gone."""

# worker, error for a job without retries left, whether it crashed (1 or 0) -> how many jobs it had
REVOKE = """
local worker, err, cost = ARGV[1], ARGV[2], ARGV[3] == '1' and CRASH or KILL
beyond_maxmemory()
local held = call('SMEMBERS', RQ..':worker:'..worker..':executions')
for _, both in ipairs(held) do
  local id, exe = string.match(both, '^([^:]+):(.+)$')
  local queue = get(id, 'origin')
  if queue then abandon(id, exe, queue, err, cost) end
end
for _, queue in ipairs(call('SMEMBERS', RQ..':queues')) do
  call('SREM', RQ..':workers:'..string.sub(queue, #RQ + 8), RQ..':worker:'..worker)
end
call('SREM', RQ..':workers', RQ..':worker:'..worker)
call('SREM', 'ldm:workers', worker)
call('DEL', RQ..':worker:'..worker, RQ..':worker:'..worker..':executions')
call('DEL', 'ldm:worker:'..worker, 'ldm:commands:'..worker, 'ldm:weights:'..worker)
return #held
"""

TIME = """
-- Where Redis' clock has jumped, or nobody was there to look for a minute, every lease and every wait goes on from now.
local function keep_time(t, lease)
  local gap = t - tonumber(call('GET', 'ldm:clock') or t)
  call('SET', 'ldm:clock', stamp(t))
  if gap > -1 and gap < 60 then return end
  for _, key in ipairs(call('SMEMBERS', RQ..':queues')) do
    local wip = RQ..':wip:'..string.sub(key, #RQ + 8)
    for _, both in ipairs(call('ZRANGE', wip, 0, -1)) do call('ZADD', wip, stamp(t + lease), both) end
  end
  for _, id in ipairs(call('ZRANGE', 'ldm:due', 0, -1)) do call('ZINCRBY', 'ldm:due', stamp(gap), id) end
end

-- jobs that no worker has taken in time
local function fail_overdue(t)
  for _, id in ipairs(call('ZRANGEBYSCORE', 'ldm:due', '-inf', stamp(t), 'LIMIT', 0, 100)) do
    call('ZREM', 'ldm:due', id)
    if get(id, 'status') == 'queued' then
      call('LREM', RQ..':queue:'..get(id, 'origin'), 0, id)
      call('SREM', 'ldm:parked', id)
      call('HSET', job_key(id), 'x_error', cjson.encode({type = 'about:blank', title = 'Service Unavailable',
        status = 503, detail = 'No worker took the job within '..get(id, 'x_wait_s')..' s.'}))
      end_alone(id, 'failed')
    end
  end
end
"""

INDEXES = """
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
  local jobs = 'ldm:jobs:'..owner
  trim(jobs, 'ZRANDMEMBER', 'ZREM', function(id) return call('EXISTS', job_key(id)) == 0 end)
  if call('EXISTS', jobs) == 0 then call('SREM', 'ldm:owners', owner) end
end

-- a worker of an older version, or another program, may have ended some
local function trim_open(queue)
  trim(open_of_model(queue), 'SRANDMEMBER', 'SREM', function(id) return not call('ZSCORE', 'ldm:open', id) end)
end

-- a job that another program deleted
local function forget(id)
  call('ZREM', 'ldm:open', id)
  call('ZREM', 'ldm:due', id)
  call('SREM', 'ldm:parked', id)
  release(0)
end
"""

# seconds of a lease. What a gateway does while there may be no worker that looks after the queues
SWEEP = (
    TIME
    + """
local t = now()
beyond_maxmemory()
keep_time(t, tonumber(ARGV[1]))
fail_overdue(t)
"""
)

# error for a job without retries left, seconds a job may be in no list, seconds of a lease
# -> jobs recovered, jobs healed
MAINTAIN = (
    TIME
    + INDEXES
    + """
local err, t = ARGV[1], now()
beyond_maxmemory()
keep_time(t, tonumber(ARGV[3]))
fail_overdue(t)
local recovered, healed, listed = 0, 0, {}
for _, key in ipairs(call('SMEMBERS', RQ..':queues')) do
  local queue = string.sub(key, #RQ + 8)
  for _, both in ipairs(call('ZRANGEBYSCORE', RQ..':wip:'..queue, 0, stamp(t))) do
    local id, exe = string.match(both, '^([^:]+):(.+)$')
    if abandon(id, exe, queue, err, KILL) then recovered = recovered + 1 end
  end
  for _, registry in pairs(REGISTRY) do call('ZREMRANGEBYSCORE', registry..queue, 0, stamp(t)) end
  trim_open(queue)
  local waiting = call('LRANGE', key, 0, -1)
  for _, id in ipairs(waiting) do listed[id] = true end
  if #waiting > 0 then in_ring(queue, 'RPUSH') end -- another program may have put them there
end
for _, id in ipairs(call('ZRANGEBYSCORE', 'ldm:open', '-inf', stamp(t - tonumber(ARGV[2])))) do
  local status = get(id, 'status')
  if not status or REGISTRY[status] or status == 'stopped' then
    forget(id)
    event('kind', 'end', 'id', id, 'status', status or 'gone')
  elseif status == 'started' then
    local exe, queue = get(id, 'x_exec'), get(id, 'origin')
    if not exe or not call('ZSCORE', RQ..':wip:'..queue, id..':'..exe) then
      abandon(id, exe or '', queue, err, KILL)
      healed = healed + 1
    end
  elseif not listed[id] and call('SISMEMBER', 'ldm:parked', id) == 0 then
    to_front(id)
    healed = healed + 1
  end
end
for _, worker in ipairs(call('SMEMBERS', 'ldm:workers')) do
  if call('EXISTS', 'ldm:worker:'..worker) == 0 then call('SREM', 'ldm:workers', worker) end
end
for _, owner in ipairs(call('SRANDMEMBER', 'ldm:owners', 20)) do trim_owner(owner) end
return {recovered, healed}
"""
)
