-- Makes a job, unless a limit forbids it: `limit` of the queue, `most` open jobs of the owner (0: any), `rate` jobs in
-- `window` seconds (0: any), `free` bytes of Redis for the `bytes` of its images (-1: any). `idem` is an idempotency
-- key or empty, `print` the request's fingerprint; both are remembered for `remember` seconds. `record` has the fields
-- of the job and their values by turns; its `data` is ARGV[2].
-- -> what became of it, then what the kind says; of a new job its position in the queue, the id of its event, its place
-- in its owner's rate, and when it was made
local id, queue, limit, owner, most, rate, window, idem, print, remember, free, bytes, record = unpack(arguments)
local memory = idem ~= '' and IDEMPOTENCY..owner..':'..idem
if call('EXISTS', JOB..id) == 1 then return {'duplicate', id} end
local known = memory and call('HMGET', memory, 'id', 'print')
if known and known[1] and call('EXISTS', JOB..known[1]) == 1 then
  return {known[2] == print and 'replay' or 'conflict', known[1]}
end

-- jobs evenly spaced would each take `gap`; `due` is when the last one's would end (GCRA)
local t, gap, pace, due = now(), 0, RATE..owner, 0
if rate > 0 then
  gap = window / rate
  due = math.min(math.max(tonumber(call('GET', pace) or 0), t), t + window) + gap -- the clock may be set back
  if due - t > window then return {'rate', stamp(due - t - window)} end
end
local mine_open = OPEN_OF_OWNER..owner
if most > 0 and call('SCARD', mine_open) >= most then
  for _, other in ipairs(call('SMEMBERS', mine_open)) do -- jobs that another program deleted
    if not call('ZSCORE', OPEN, other) then call('SREM', mine_open, other) end
  end
  if call('SCARD', mine_open) >= most then return {'busy'} end
end
-- Of a model's places a quarter is kept for owners with less than an equal share, so that nobody is shut out by
-- another's thousand; a model whose worker is gone leaves the other models theirs.
local share, places = limit / (call('SCARD', OWNERS) + 1), limit
if owner ~= '' and call('SCARD', mine_open) >= share then places = places - math.floor(limit / 4) end
if call('SCARD', open_of_model(queue)) >= places or call('ZCARD', OPEN) >= 4 * limit then
  local oldest = call('LINDEX', ENDED, -1)
  return {'full', call('LLEN', ENDED), oldest and stamp(t - oldest) or '0'}
end
local reserved = tonumber(call('GET', RESERVED) or 0)
if free >= 0 and reserved + bytes > free then return {'memory'} end

if gap > 0 then call('SET', pace, stamp(due), 'PX', math.ceil((due - t) * 1000)) end
call('HSET', JOB..id, 'x_owner', owner, 'created_at', iso(t), 'enqueued_at', iso(t), 'x_since', stamp(t),
  'data', ARGV[2], unpack(record))
if memory then
  call('HSET', memory, 'id', id, 'print', print)
  call('EXPIRE', memory, remember)
  call('HSET', JOB..id, 'x_keep', remember)
end
call('SADD', QUEUES, QUEUE..queue)
local place = call('RPUSH', QUEUE..queue, id) - 1
in_ring(queue, 'RPUSH')
call('ZADD', OPEN, stamp(t), id)
call('SADD', open_of_model(queue), id)
must_be_taken(id, t)
reserve(bytes)
call('SADD', mine_open, id)
call('ZADD', JOBS_OF_OWNER..owner, stamp(t), id)
call('SADD', OWNERS, owner)
local at = event('kind', 'queued', 'id', id)
wake_up(queue)
return {'queued', id, positions_in(queue)(place), at,
  gap > 0 and math.floor((t + window - due) / gap + 0.001) or -1, stamp(math.max(due - t, 0)), iso(t)}
