-- The small functions that every script begins with. Names in capitals are keys of `keys.py`.
local call, arguments = redis.call, cjson.decode(ARGV[1])
local REGISTRY = {finished = FINISHED, failed = FAILED, canceled = CANCELED}

local function now() local t = call('TIME'); return tonumber(t[1]) + tonumber(t[2]) / 1000000 end
local function stamp(seconds) return string.format('%.6f', seconds) end
-- an instant as RQ writes it: ISO 8601 in UTC (the calendar's days counted in eras of 400 years that begin in March)
local function iso(seconds)
  local whole, micros = string.match(stamp(seconds), '(%d+)%.(%d+)')
  local days, rest = math.floor(whole / 86400) + 719468, whole % 86400
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%sZ', year + era * 400 + (month <= 2 and 1 or 0), month, day,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, micros)
end
-- At maxmemory Redis refuses a script only if the first command that it writes with may need memory. Scripts that end
-- jobs, give them back or keep them alive begin with this: they need next to none, and free more.
local function beyond_maxmemory() call('DEL', NONE) end
local function get(id, field) return call('HGET', JOB..id, field) end
-- the record keeps the id of its job's last event, so that a stream of events can be resumed after it
local function event(...)
  local at, _, _, field, id = call('XADD', EVENTS, 'MAXLEN', '~', 10000, '*', ...), ...
  if field == 'id' and call('EXISTS', JOB..id) == 1 then call('HSET', JOB..id, 'x_event', at) end
  return at
end
local function mine(id, exe) return get(id, 'status') == 'started' and get(id, 'x_exec') == exe end
local function ended(id, exe) return REGISTRY[get(id, 'status')] and get(id, 'x_exec') == exe end

-- MODEL.PRIORITY of MODEL.PRIORITY@OWNER
local function base_of(queue) return string.match(queue, '^(.*)@[%w_-]+$') or queue end
local function model_of(queue) return string.match(base_of(queue), '^(.*)%.') or queue end
local function open_of_model(queue) return OPEN_OF_MODEL..model_of(queue) end -- its open jobs, a set
local function queue_of(key) return string.sub(key, #QUEUE + 1) end
local function owner_in(queue) return string.match(queue, '@([%w_-]+)$') or '' end

-- Each owner's jobs of a model and priority are a queue of their own; the ring of that model and priority has every
-- queue once that has jobs, so that owners take turns.
local function in_ring(queue, push)
  local ring = RING..base_of(queue)
  if not call('LPOS', ring, queue) then call(push, ring, queue) end
end

-- from a job's place in its own queue to its position, 1 for the one that the next free worker takes: more urgent jobs
-- of its owner and model go first, and owners take turns, so that of every other one as many are ahead
local function positions_in(queue)
  local model, priority = string.match(base_of(queue), '^(.*)%.(.*)$')
  local urgent, passed, others = 0, false, {}
  for _, other in ipairs(PRIORITIES) do
    passed = passed or other == priority
    for _, beside in ipairs(call('LRANGE', RING..model..'.'..other, 0, -1)) do
      local owner, length = owner_in(beside), call('LLEN', QUEUE..beside)
      if owner ~= owner_in(queue) then others[owner] = (others[owner] or 0) + length
      elseif not passed then urgent = urgent + length end
    end
  end
  return function(place)
    local position = 1 + urgent + place
    for _, jobs in pairs(others) do position = position + math.min(jobs, urgent + place) end
    return position
  end
end

-- a token for one of the idle workers, which block on this list
local function wake_up(queue)
  local tokens = WAKE_UPS..model_of(queue)
  if call('LLEN', tokens) < 64 then call('RPUSH', tokens, '1') end
end

-- RQ's set of the executions of a worker
local function held_by(worker) return RQ_WORKER..worker..':executions' end

-- what `rq info` shows of a worker
local function set_state(worker, state)
  local key = RQ_WORKER..worker
  if call('EXISTS', key) == 1 then call('HSET', key, 'state', state) end
end

local function drop_execution(id, exe, queue, worker)
  call('DEL', EXECUTION..id..':'..exe)
  call('ZREM', EXECUTIONS..id, exe)
  call('ZREM', LEASES..queue, id..':'..exe)
  if not worker then return end
  call('SREM', held_by(worker), id..':'..exe)
  if call('EXISTS', held_by(worker)) == 0 then set_state(worker, 'idle') end
end

-- bytes of Redis that open jobs will want for their images
local function reserve(bytes) if tonumber(bytes or 0) > 0 then call('INCRBY', RESERVED, bytes) end end
local function release(bytes)
  if tonumber(bytes or 0) > 0 then call('DECRBY', RESERVED, bytes) end
  if call('EXISTS', OPEN) == 0 then call('DEL', RESERVED) end
end

-- a queued job waits no longer than `x_wait_s` for a worker to take it
local function must_be_taken(id, t)
  local patience = tonumber(get(id, 'x_wait_s') or 0)
  if patience > 0 then call('ZADD', DUE, stamp(t + patience), id) end
end

-- Puts a host of webhooks where its next delivery is due.
local function turn_of_host(host)
  local first = call('ZRANGE', WEBHOOKS_OF..host, 0, 0, 'WITHSCORES')
  if not first[1] then call('ZREM', WEBHOOKS, host) return end
  call('ZADD', WEBHOOKS, first[2], host)
  for _, key in ipairs({WEBHOOKS, WEBHOOKS_OF..host}) do call('EXPIRE', key, 7 * 24 * 3600) end
end

-- says that a job has ended; with a `host` its webhook is due
local function tell_end(id, status, host)
  if not host then return event('kind', 'end', 'id', id, 'status', status) end
  call('ZADD', WEBHOOKS_OF..host, stamp(now()), id)
  turn_of_host(host)
  event('kind', 'end', 'id', id, 'status', status, 'webhook', host)
end

-- failed jobs are kept for failure_ttl, all others for result_ttl
local function finish(id, status)
  local t, queue, ttl, keep, owner, bytes, host = now(), unpack(call('HMGET', JOB..id, 'origin',
    status == 'failed' and 'failure_ttl' or 'result_ttl', 'x_keep', 'x_owner', 'x_bytes', 'x_webhook'))
  ttl = math.max(tonumber(ttl), tonumber(keep or 0)) -- under an idempotency key the record outlives its images
  call('HSET', JOB..id, 'status', status, 'ended_at', iso(t))
  call('EXPIRE', JOB..id, ttl)
  call('EXPIRE', RESULTS..id, ttl)
  call('ZADD', REGISTRY[status]..queue, stamp(t + ttl), id)
  call('ZREM', OPEN, id)
  call('ZREM', DUE, id)
  call('SREM', open_of_model(queue), id)
  call('SREM', OPEN_OF_OWNER..(owner or ''), id)
  if status ~= 'canceled' then
    call('LPUSH', ENDED, stamp(t))
    call('LTRIM', ENDED, 0, 63)
  end
  release(bytes)
  tell_end(id, status, host)
end

-- ends a job without a worker; its blobs are queued for deletion at a worker's next clean-up
local function end_alone(id, status)
  finish(id, status)
  call('RPUSH', ORPHANS, id)
end

local function to_front(id)
  local queue, t = get(id, 'origin'), now()
  if get(id, 'status') == 'started' then must_be_taken(id, t) end
  call('HSET', JOB..id, 'status', 'queued', 'x_since', stamp(t), 'x_step', get(id, 'x_saved') or 0,
    'started_at', '', 'worker_name', '')
  call('LPUSH', QUEUE..queue, id)
  in_ring(queue, 'LPUSH')
  event('kind', 'queued', 'id', id)
  wake_up(queue)
end

-- a started job whose worker is gone, or whose try went wrong through no fault of its own
local function try_again(id, err, cost)
  if call('HEXISTS', JOB..id, 'x_cancel') == 1 then end_alone(id, 'canceled') return 'canceled' end
  local left = tonumber(get(id, 'retries_left') or 0) - cost
  if left >= 0 then
    call('HSET', JOB..id, 'retries_left', left)
    to_front(id)
    return 'queued'
  end
  call('HSET', JOB..id, 'x_error', err)
  end_alone(id, 'failed')
  return 'failed'
end

-- Of the six retries a crash costs four: a job under which two processes crashed has failed. An error that may pass
-- costs two. A kill from outside costs one, or none if the job has saved progress since its lease: then the job is not
-- the cause.
local CRASH, ERROR, KILL = 4, 2, 1

local function abandon(id, exe, queue, err, cost)
  drop_execution(id, exe, queue, get(id, 'worker_name'))
  if not mine(id, exe) then return end
  local moved = tonumber(get(id, 'x_saved') or 0) > tonumber(get(id, 'x_resumed') or 0)
  return try_again(id, err, (cost == KILL and moved) and 0 or cost)
end
