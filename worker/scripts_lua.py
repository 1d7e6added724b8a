"""Lua: the small functions that every script starts with, and the scripts of jobs that no worker holds (any more)."""

PRELUDE = """
local RQ = '@RQ@'
local call = redis.call
local REGISTRY = {finished = RQ..':finished:', failed = RQ..':failed:', canceled = RQ..':canceled:'}

local function now() local t = call('TIME'); return tonumber(t[1]) + tonumber(t[2]) / 1000000 end
local function stamp(seconds) return string.format('%.6f', seconds) end
local function job_key(id) return RQ..':job:'..id end
local function get(id, field) return call('HGET', job_key(id), field) end
local function event(...) call('XADD', 'ldm:events', 'MAXLEN', '~', 10000, '*', ...) end
local function mine(id, exe) return get(id, 'status') == 'started' and get(id, 'x_exec') == exe end
local function ended(id, exe) return REGISTRY[get(id, 'status')] and get(id, 'x_exec') == exe end

local function ring(queue)
  local bell = 'ldm:bell:'..string.match(queue, '^(.*)%.')
  if call('LLEN', bell) < 64 then call('RPUSH', bell, '1') end
end

local function drop_execution(id, exe, queue, worker)
  call('DEL', RQ..':execution:'..id..':'..exe)
  call('ZREM', RQ..':executions:'..id, exe)
  call('ZREM', RQ..':wip:'..queue, id..':'..exe)
  if worker then call('SREM', RQ..':worker:'..worker..':executions', id..':'..exe) end
end

-- failed jobs are kept for failure_ttl, all others for result_ttl
local function finish(id, status, iso)
  local queue, ttl = get(id, 'origin'), tonumber(get(id, status == 'failed' and 'failure_ttl' or 'result_ttl'))
  call('HSET', job_key(id), 'status', status, 'ended_at', iso)
  call('EXPIRE', job_key(id), ttl)
  call('EXPIRE', RQ..':results:'..id, ttl)
  call('ZADD', REGISTRY[status]..queue, stamp(now() + ttl), id)
  call('ZREM', 'ldm:open', id)
  if status ~= 'canceled' then
    call('LPUSH', 'ldm:ended', stamp(now()))
    call('LTRIM', 'ldm:ended', 0, 63)
  end
  event('kind', 'end', 'id', id, 'status', status)
end

local function to_front(id)
  call('HSET', job_key(id), 'status', 'queued', 'x_step', 0, 'started_at', '', 'worker_name', '')
  call('LPUSH', RQ..':queue:'..get(id, 'origin'), id)
  event('kind', 'queued', 'id', id)
  ring(get(id, 'origin'))
end

-- a started job whose worker is gone, or whose try went wrong through no fault of its own
local function try_again(id, iso, err)
  if call('HEXISTS', job_key(id), 'x_cancel') == 1 then finish(id, 'canceled', iso) return 'canceled' end
  if tonumber(get(id, 'retries_left') or 0) > 0 then
    call('HINCRBY', job_key(id), 'retries_left', -1)
    to_front(id)
    return 'queued'
  end
  call('HSET', job_key(id), 'x_error', err)
  finish(id, 'failed', iso)
  return 'failed'
end

local function abandon(id, exe, queue, iso, err)
  drop_execution(id, exe, queue, get(id, 'worker_name'))
  if mine(id, exe) then return try_again(id, iso, err) end
end
"""

# id, queue, limit, field, value, ...
ENQUEUE = """
local id, queue, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
if call('EXISTS', job_key(id)) == 1 then return {'duplicate'} end
local open = call('ZCARD', 'ldm:open')
if open >= limit then
  local oldest = call('LINDEX', 'ldm:ended', -1)
  return {'full', call('LLEN', 'ldm:ended'), oldest and stamp(now() - oldest) or '0'}
end
call('HSET', job_key(id), unpack(ARGV, 4))
call('SADD', RQ..':queues', RQ..':queue:'..queue)
call('RPUSH', RQ..':queue:'..queue, id)
call('ZADD', 'ldm:open', stamp(now()), id)
event('kind', 'queued', 'id', id)
ring(queue)
return {'queued'}
"""

# iso time, id, execution, ... oldest first; no retry is burnt
REQUEUE = """
local count = 0
for i = #ARGV - 1, 2, -2 do
  local id, exe = ARGV[i], ARGV[i + 1]
  if mine(id, exe) then
    drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
    if call('HEXISTS', job_key(id), 'x_cancel') == 1 then finish(id, 'canceled', ARGV[1]) else to_front(id) end
    count = count + 1
  end
end
return count
"""

# id, iso time -> false: unknown; else what it was
CANCEL = """
local id, iso = ARGV[1], ARGV[2]
local status = get(id, 'status')
if status == 'queued' then
  call('LREM', RQ..':queue:'..get(id, 'origin'), 0, id)
  finish(id, 'canceled', iso)
elseif status == 'started' then
  local commands = 'ldm:commands:'..get(id, 'worker_name')
  call('HSET', job_key(id), 'x_cancel', iso)
  call('RPUSH', commands, id)
  call('EXPIRE', commands, 60)
end
return status
"""

# worker, iso time, error for a job without retries left, starts up to which no retry is burnt -> how many jobs it had
REVOKE = """
local worker, iso, err, free = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local held = call('SMEMBERS', RQ..':worker:'..worker..':executions')
for _, both in ipairs(held) do
  local id, exe = string.match(both, '^([^:]+):(.+)$')
  local queue = get(id, 'origin')
  if queue and mine(id, exe) and tonumber(get(id, 'x_starts')) <= free then
    call('HINCRBY', job_key(id), 'retries_left', 1) -- abandoning takes it again
  end
  if queue then abandon(id, exe, queue, iso, err) end
end
for _, queue in ipairs(call('SMEMBERS', RQ..':queues')) do
  call('SREM', RQ..':workers:'..string.sub(queue, #RQ + 8), RQ..':worker:'..worker)
end
call('SREM', RQ..':workers', RQ..':worker:'..worker)
call('SREM', 'ldm:workers', worker)
call('DEL', RQ..':worker:'..worker, RQ..':worker:'..worker..':executions')
call('DEL', 'ldm:worker:'..worker, 'ldm:commands:'..worker)
return #held
"""

# iso time, error for a job without retries left, seconds a job may be in no list -> jobs recovered, jobs healed
MAINTAIN = """
local iso, err, t = ARGV[1], ARGV[2], now()
local recovered, healed, listed = 0, 0, {}
for _, key in ipairs(call('SMEMBERS', RQ..':queues')) do
  local queue = string.sub(key, #RQ + 8)
  for _, both in ipairs(call('ZRANGEBYSCORE', RQ..':wip:'..queue, 0, stamp(t))) do
    local id, exe = string.match(both, '^([^:]+):(.+)$')
    if abandon(id, exe, queue, iso, err) then recovered = recovered + 1 end
  end
  for _, registry in pairs(REGISTRY) do call('ZREMRANGEBYSCORE', registry..queue, 0, stamp(t)) end
  for _, id in ipairs(call('LRANGE', key, 0, -1)) do listed[id] = true end
end
for _, id in ipairs(call('ZRANGEBYSCORE', 'ldm:open', '-inf', stamp(t - tonumber(ARGV[3])))) do
  local status = get(id, 'status')
  if not status or REGISTRY[status] or status == 'stopped' then
    call('ZREM', 'ldm:open', id)
    event('kind', 'end', 'id', id, 'status', status or 'gone')
  elseif status == 'started' then
    local exe, queue = get(id, 'x_exec'), get(id, 'origin')
    if not exe or not call('ZSCORE', RQ..':wip:'..queue, id..':'..exe) then
      abandon(id, exe or '', queue, iso, err)
      healed = healed + 1
    end
  elseif not listed[id] then
    to_front(id)
    healed = healed + 1
  end
end
for _, worker in ipairs(call('SMEMBERS', 'ldm:workers')) do
  if call('EXISTS', 'ldm:worker:'..worker) == 0 then call('SREM', 'ldm:workers', worker) end
end
return {recovered, healed}
"""
