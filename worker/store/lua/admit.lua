-- Leases jobs to a worker for `lease` seconds, until `room` rows are filled. `turn` counts its admissions, `format` is
-- what it reads, `held` the number of jobs that it holds, `rows` by owner the rows of its high, normal and low jobs
-- among them. `max_rows` run at once; urgent jobs may have `spare` rows beyond them.
-- The owner with the fewest rows here comes first, whatever its priorities. Of its jobs strictly high before normal
-- before low, but of every eight jobs one comes from normal first and one from low first.
-- Where there is no room, jobs still come in of an owner that has less than an equal share of the rows; of an owner's
-- priority of which none is here; and up to `spare` rows of those more urgent than others of their owner. The engine
-- gives each its share of the time.
-- A job under which a worker crashed, or four were killed, may be the cause: it runs alone and takes no others with it.
-- -> what was taken, and whether such a job waits for this worker to have no other
local worker, token, lease, room, turn, format, held, max_rows, spare, models, rows = unpack(arguments)
local kept, taken, waits = math.ceil(lease) + 60, {}, 0
if call('EXISTS', SUSPENDED) == 1 then return {taken, waits} end
unpark(format, models)

-- for each owner its rows here, and its queues that have jobs, by priority
local owners, names = {}, {}
local function owner_of(name)
  if not owners[name] then
    owners[name] = {rows = {0, 0, 0}, queues = {{}, {}, {}}}
    names[#names + 1] = name
  end
  return owners[name]
end
for priority, word in ipairs(PRIORITIES) do
  for i = 0, #models - 1 do
    local model = models[1 + (i + turn + math.floor(turn / 8)) % #models]
    for _, queue in ipairs(call('LRANGE', RING..model..'.'..word, 0, -1)) do
      table.insert(owner_of(owner_in(queue)).queues[priority], queue)
    end
  end
end
for name, here in pairs(rows) do owner_of(name).rows = here end

local function rows_at(owner, priority)
  local sum = 0
  for i = 1, priority do sum = sum + owner.rows[i] end
  return sum
end

local function may_enter(owner, priority)
  local all, urgent = rows_at(owner, 3), rows_at(owner, priority)
  return room > 0 or all < max_rows / #names or owner.rows[priority] == 0 or (urgent < all and urgent < spare)
end

local function next_priority(owner, order)
  for _, priority in ipairs(order) do
    if owner.queues[priority][1] and may_enter(owner, priority) then return priority end
  end
end

-- the owner that has the fewest rows here, of those that may have another job
local function next_owner()
  local order = ({[3] = {2, 3, 1}, [7] = {3, 2, 1}})[turn % 8] or {1, 2, 3}
  local owner, priority
  for _, name in ipairs(names) do
    local other = owners[name]
    local may = next_priority(other, order)
    if may and not (owner and rows_at(owner, 3) <= rows_at(other, 3)) then owner, priority = other, may end
  end
  return owner, priority
end

-- its next job; the queue goes behind the others in its ring
local function pop(owner, priority)
  local queue = table.remove(owner.queues[priority], 1)
  local ring, id = RING..base_of(queue), call('LPOP', QUEUE..queue)
  call('LREM', ring, 1, queue)
  if call('EXISTS', QUEUE..queue) == 1 then
    call('RPUSH', ring, queue)
    table.insert(owner.queues[priority], queue)
  end
  return id, queue
end

local t = now()
while true do
  local owner, priority = next_owner()
  if not owner then break end
  local id, queue = pop(owner, priority)
  if id and get(id, 'status') == 'queued' then -- else cancelled, or listed twice by another program's clean-up
    local alone = tonumber(get(id, 'retries_left') or 6) <= 2
    if alone and held + #taken > 0 then
      call('LPUSH', QUEUE..queue, id)
      in_ring(queue, 'LPUSH')
      waits = 1
      break
    end
    local exe, key = token..'-'..#taken, JOB..id
    local both = id..':'..exe
    call('HSET', key, 'status', 'started', 'started_at', iso(t), 'last_heartbeat', iso(t), 'worker_name', worker,
      'x_exec', exe, 'x_resumed', get(id, 'x_saved') or 0)
    call('HINCRBY', key, 'x_starts', 1)
    call('PERSIST', key)
    call('HSET', EXECUTION..both, 'id', exe, 'job_id', id, 'created_at', stamp(t), 'last_heartbeat', stamp(t),
      'worker_name', worker)
    call('EXPIRE', EXECUTION..both, kept)
    call('ZADD', EXECUTIONS..id, stamp(t + kept), exe)
    call('EXPIRE', EXECUTIONS..id, kept + 60)
    call('ZADD', LEASES..queue, stamp(t + lease), both)
    call('SADD', held_by(worker), both)
    call('EXPIRE', held_by(worker), kept + 60)
    event('kind', 'started', 'id', id)
    local waited = t - tonumber(get(id, 'x_since') or t)
    taken[#taken + 1] = {id, queue, exe, get(id, 'data'), get(id, 'timeout'), stamp(waited),
      alone and 1 or 0, get(id, 'x_starts'), get(id, 'result_ttl'), call('EXISTS', PREVIEW..id)}
    local added = tonumber(get(id, 'x_rows') or 1)
    owner.rows[priority] = owner.rows[priority] + added
    room, turn = room - added, turn + 1
    if alone then break end
  end
end
if #taken > 0 then set_state(worker, 'busy') end
return {taken, waits}
