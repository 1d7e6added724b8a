"""What the gateway does: it makes a job, cancels one, asks where some are in the queue and what workers serve."""

# id, queue, limit, owner, open jobs an owner may have (0: any), jobs per window of seconds (0: any), window,
# idempotency key, fingerprint of the request, seconds to remember both, bytes that Redis may still take (-1: any
# number), then the record: field, value, ...
# -> what became of it, then what the kind says; of a new job its position in the queue, the id of its event, its place
# in its owner's rate, and when it was made
ENQUEUE = """
local id, queue, limit, owner, most, rate, window, idem, print, remember, free = unpack(ARGV, 1, 11)
local record = idem ~= '' and 'ldm:idem:'..owner..':'..idem
if call('EXISTS', job_key(id)) == 1 then return {'duplicate', id} end
local known = record and call('HMGET', record, 'id', 'print')
if known and known[1] and call('EXISTS', job_key(known[1])) == 1 then
  return {known[2] == print and 'replay' or 'conflict', known[1]}
end

-- jobs evenly spaced would each take `gap`; `due` is when the last one's would end (GCRA)
local t, gap, pace, due = now(), 0, 'ldm:rate:'..owner, 0
if tonumber(rate) > 0 then
  gap = window / rate
  due = math.min(math.max(tonumber(call('GET', pace) or 0), t), t + window) + gap -- the clock may be set back
  if due - t > tonumber(window) then return {'rate', stamp(due - t - window)} end
end
local mine_open = 'ldm:open:'..owner
if tonumber(most) > 0 and call('SCARD', mine_open) >= tonumber(most) then
  for _, other in ipairs(call('SMEMBERS', mine_open)) do -- jobs that another program deleted
    if not call('ZSCORE', 'ldm:open', other) then call('SREM', mine_open, other) end
  end
  if call('SCARD', mine_open) >= tonumber(most) then return {'busy'} end
end
-- Of a model's places a quarter is kept for owners with less than an equal share, so that nobody is shut out by
-- another's thousand; a model whose worker is gone leaves the other models theirs.
local share, places = limit / (call('SCARD', 'ldm:owners') + 1), tonumber(limit)
if owner ~= '' and call('SCARD', mine_open) >= share then places = places - math.floor(limit / 4) end
if call('SCARD', open_of_model(queue)) >= places or call('ZCARD', 'ldm:open') >= 4 * limit then
  local oldest = call('LINDEX', 'ldm:ended', -1)
  return {'full', call('LLEN', 'ldm:ended'), oldest and stamp(t - oldest) or '0'}
end
local bytes = 0
for i = 12, #ARGV, 2 do if ARGV[i] == 'x_bytes' then bytes = tonumber(ARGV[i + 1]) end end
local reserved = tonumber(call('GET', 'ldm:reserved') or 0)
if tonumber(free) >= 0 and reserved + bytes > tonumber(free) then return {'memory'} end

if gap > 0 then call('SET', pace, stamp(due), 'PX', math.ceil((due - t) * 1000)) end
call('HSET', job_key(id), 'x_owner', owner, 'created_at', iso(t), 'enqueued_at', iso(t), 'x_since', stamp(t),
  unpack(ARGV, 12))
if record then
  call('HSET', record, 'id', id, 'print', print)
  call('EXPIRE', record, remember)
  call('HSET', job_key(id), 'x_keep', remember)
end
call('SADD', RQ..':queues', RQ..':queue:'..queue)
local place = call('RPUSH', RQ..':queue:'..queue, id) - 1
in_ring(queue, 'RPUSH')
call('ZADD', 'ldm:open', stamp(t), id)
call('SADD', open_of_model(queue), id)
must_be_taken(id, t)
reserve(bytes)
call('SADD', mine_open, id)
call('ZADD', 'ldm:jobs:'..owner, stamp(t), id)
call('SADD', 'ldm:owners', owner)
local at = event('kind', 'queued', 'id', id)
ring_bell(queue)
return {'queued', id, positions_in(queue)(place), at,
  gap > 0 and math.floor((t + window - due) / gap + 0.001) or -1, stamp(math.max(due - t, 0)), iso(t)}
"""

# id -> false: unknown; else what it was
CANCEL = """
local id = ARGV[1]
local status = get(id, 'status')
beyond_maxmemory()
if status == 'queued' then
  call('LREM', RQ..':queue:'..get(id, 'origin'), 0, id)
  call('SREM', 'ldm:parked', id)
  end_alone(id, 'canceled')
elseif status == 'started' then
  local commands = 'ldm:commands:'..get(id, 'worker_name')
  call('HSET', job_key(id), 'x_cancel', iso(now()))
  call('RPUSH', commands, id)
  call('EXPIRE', commands, 60)
end
return status
"""

# id, ... -> the position of each; false where it is in no queue
POSITIONS = """
local of, positions = {}, {}
for i, id in ipairs(ARGV) do
  local queue = get(id, 'origin')
  local place = queue and call('LPOS', RQ..':queue:'..queue, id)
  if place then of[queue] = of[queue] or positions_in(queue) end
  positions[i] = place and of[queue](place)
end
return positions
"""

# -> what each live worker has published, in the order of their names
SERVED = """
local names, published = call('SMEMBERS', 'ldm:workers'), {}
table.sort(names)
for _, name in ipairs(names) do published[#published + 1] = call('GET', 'ldm:worker:'..name) or nil end
return published
"""
