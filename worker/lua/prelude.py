"""The small functions that every script starts with."""

PRELUDE = """
local RQ = '@RQ@'
local call = redis.call
local REGISTRY = {finished = RQ..':finished:', failed = RQ..':failed:', canceled = RQ..':canceled:'}

local function now() local t = call('TIME'); return tonumber(t[1]) + tonumber(t[2]) / 1000000 end
local function stamp(seconds) return string.format('%.6f', seconds) end
local function job_key(id) return RQ..':job:'..id end
local function get(id, field) return call('HGET', job_key(id), field) end
-- the record keeps the id of its job's last event, so that a stream of events can be resumed after it
local function event(...)
  local at, _, _, field, id = call('XADD', 'ldm:events', 'MAXLEN', '~', 10000, '*', ...), ...
  if field == 'id' and call('EXISTS', job_key(id)) == 1 then call('HSET', job_key(id), 'x_event', at) end
  return at
end
local function mine(id, exe) return get(id, 'status') == 'started' and get(id, 'x_exec') == exe end
local function ended(id, exe) return REGISTRY[get(id, 'status')] and get(id, 'x_exec') == exe end

-- MODEL.PRIORITY of MODEL.PRIORITY@OWNER
local function base_of(queue) return string.match(queue, '^(.*)@[%w_-]+$') or queue end

-- Each owner's jobs of a model and priority are a queue of their own; the ring of that model and priority has every
-- queue once that has jobs, so that owners take turns.
local function in_ring(queue, push)
  local ring = 'ldm:ring:'..base_of(queue)
  if not call('LPOS', ring, queue) then call(push, ring, queue) end
end

local URGENT = {high = {}, normal = {'high'}, low = {'high', 'normal'}}
local function lengths_in_ring(base, without)
  local lengths = {}
  for _, queue in ipairs(call('LRANGE', 'ldm:ring:'..base, 0, -1)) do
    if queue ~= without then lengths[#lengths + 1] = call('LLEN', RQ..':queue:'..queue) end
  end
  return lengths
end
-- from a job's place in its own queue to its position, 1 for the one that the next free worker takes: more urgent
-- queues of its model go first, and those of its own priority take turns, so that of every other one as many are ahead
-- as its own place allows
local function positions_in(queue)
  local base, urgent = base_of(queue), 0
  local model, priority = string.match(base, '^(.*)%.(.*)$')
  for _, other in ipairs(URGENT[priority] or {}) do
    for _, length in ipairs(lengths_in_ring(model..'.'..other)) do urgent = urgent + length end
  end
  local beside = lengths_in_ring(base, queue)
  return function(place)
    local position = 1 + place + urgent
    for _, length in ipairs(beside) do position = position + math.min(length, place) end
    return position
  end
end

local function ring_bell(queue)
  local bell = 'ldm:bell:'..string.match(base_of(queue), '^(.*)%.')
  if call('LLEN', bell) < 64 then call('RPUSH', bell, '1') end
end

-- what `rq info` shows of a worker
local function set_state(worker, state)
  local key = RQ..':worker:'..worker
  if call('EXISTS', key) == 1 then call('HSET', key, 'state', state) end
end

local function drop_execution(id, exe, queue, worker)
  call('DEL', RQ..':execution:'..id..':'..exe)
  call('ZREM', RQ..':executions:'..id, exe)
  call('ZREM', RQ..':wip:'..queue, id..':'..exe)
  if not worker then return end
  local held = RQ..':worker:'..worker..':executions'
  call('SREM', held, id..':'..exe)
  if call('EXISTS', held) == 0 then set_state(worker, 'idle') end
end

-- failed jobs are kept for failure_ttl, all others for result_ttl
local function finish(id, status, iso)
  local queue, ttl = get(id, 'origin'), tonumber(get(id, status == 'failed' and 'failure_ttl' or 'result_ttl'))
  ttl = math.max(ttl, tonumber(get(id, 'x_keep') or 0)) -- under an idempotency key the record outlives its pictures
  call('HSET', job_key(id), 'status', status, 'ended_at', iso)
  call('EXPIRE', job_key(id), ttl)
  call('EXPIRE', RQ..':results:'..id, ttl)
  call('ZADD', REGISTRY[status]..queue, stamp(now() + ttl), id)
  call('ZREM', 'ldm:open', id)
  call('SREM', 'ldm:open:'..(get(id, 'x_owner') or ''), id)
  if status ~= 'canceled' then
    call('LPUSH', 'ldm:ended', stamp(now()))
    call('LTRIM', 'ldm:ended', 0, 63)
  end
  event('kind', 'end', 'id', id, 'status', status)
end

-- ended by no worker: its input pictures and its checkpoint are still there, for a worker's next clean-up
local function end_alone(id, status, iso)
  finish(id, status, iso)
  call('RPUSH', 'ldm:litter', id)
end

local function to_front(id)
  local queue = get(id, 'origin')
  call('HSET', job_key(id), 'status', 'queued', 'x_step', get(id, 'x_saved') or 0, 'started_at', '', 'worker_name', '')
  call('LPUSH', RQ..':queue:'..queue, id)
  in_ring(queue, 'LPUSH')
  event('kind', 'queued', 'id', id)
  ring_bell(queue)
end

-- a started job whose worker is gone, or whose try went wrong through no fault of its own
local function try_again(id, iso, err, cost)
  if call('HEXISTS', job_key(id), 'x_cancel') == 1 then end_alone(id, 'canceled', iso) return 'canceled' end
  local left = tonumber(get(id, 'retries_left') or 0) - cost
  if left >= 0 then
    call('HSET', job_key(id), 'retries_left', left)
    to_front(id)
    return 'queued'
  end
  call('HSET', job_key(id), 'x_error', err)
  end_alone(id, 'failed', iso)
  return 'failed'
end

-- Of the six retries a crash costs four: a job under which two processes crashed has failed. An error that may pass
-- costs two. A kill from outside costs one, and none where the job has been saved further on since it was taken: then
-- it cannot be the cause.
local CRASH, ERROR, KILL = 4, 2, 1

local function abandon(id, exe, queue, iso, err, cost)
  drop_execution(id, exe, queue, get(id, 'worker_name'))
  if not mine(id, exe) then return end
  local moved = tonumber(get(id, 'x_saved') or 0) > tonumber(get(id, 'x_resumed') or 0)
  return try_again(id, iso, err, (cost == KILL and moved) and 0 or cost)
end
"""
