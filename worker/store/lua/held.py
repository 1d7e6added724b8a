"""What a worker does to the jobs that it holds, from their admission to their end."""

from worker.store.lua.parked import UNPARK

# worker, token, lease seconds, rows of room, turn, format that it reads, jobs it holds, rows that run at once, rows
# that urgent jobs may have beyond them, number of models, the models, then for each owner of jobs that it holds: the
# owner, rows of its high, of its normal and of its low jobs
# The owner with the fewest rows here comes first, whatever its priorities. Of its jobs strictly high before normal
# before low, but of every eight jobs one comes from normal first and one from low first.
# Where there is no room, jobs still come in of an owner that has less than an equal share of the rows; of an owner's
# priority of which none is here; and up to `spare` rows of those more urgent than others of their owner. The engine
# gives each its share of the time.
# A job under which a worker crashed, or four were killed, may be the cause: it runs alone and takes no others with it.
# -> what was taken, and whether such a job waits for this worker to have no other
ADMIT = (
    UNPARK
    + """
local worker, token, format = ARGV[1], ARGV[2], ARGV[6]
local lease, room, turn, held = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local max_rows, spare, width = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local kept, taken, waits = math.ceil(lease) + 60, {}, 0
if call('EXISTS', RQ..':suspended') == 1 then return {taken, waits} end
unpark(format, {unpack(ARGV, 11, 10 + width)})

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
  for i = 0, width - 1 do
    local model = ARGV[11 + (i + turn + math.floor(turn / 8)) % width]
    for _, queue in ipairs(call('LRANGE', 'ldm:ring:'..model..'.'..word, 0, -1)) do
      table.insert(owner_of(owner_in(queue)).queues[priority], queue)
    end
  end
end
for i = 11 + width, #ARGV, 4 do
  owner_of(ARGV[i]).rows = {tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])}
end

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
  local ring, id = 'ldm:ring:'..base_of(queue), call('LPOP', RQ..':queue:'..queue)
  call('LREM', ring, 1, queue)
  if call('EXISTS', RQ..':queue:'..queue) == 1 then
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
      call('LPUSH', RQ..':queue:'..queue, id)
      in_ring(queue, 'LPUSH')
      waits = 1
      break
    end
    local exe, key = token..'-'..#taken, job_key(id)
    local both = id..':'..exe
    call('HSET', key, 'status', 'started', 'started_at', iso(t), 'last_heartbeat', iso(t), 'worker_name', worker,
      'x_exec', exe, 'x_resumed', get(id, 'x_saved') or 0)
    call('HINCRBY', key, 'x_starts', 1)
    call('PERSIST', key)
    call('HSET', RQ..':execution:'..both, 'id', exe, 'job_id', id, 'created_at', stamp(t), 'last_heartbeat', stamp(t),
      'worker_name', worker)
    call('EXPIRE', RQ..':execution:'..both, kept)
    call('ZADD', RQ..':executions:'..id, stamp(t + kept), exe)
    call('EXPIRE', RQ..':executions:'..id, kept + 60)
    call('ZADD', RQ..':wip:'..queue, stamp(t + lease), both)
    call('SADD', RQ..':worker:'..worker..':executions', both)
    call('EXPIRE', RQ..':worker:'..worker..':executions', kept + 60)
    event('kind', 'started', 'id', id)
    local waited = t - tonumber(get(id, 'x_since') or t)
    taken[#taken + 1] = {id, queue, exe, get(id, 'data'), get(id, 'timeout'), stamp(waited),
      alone and 1 or 0, get(id, 'x_starts'), get(id, 'result_ttl')}
    local rows = tonumber(get(id, 'x_rows') or 1)
    owner.rows[priority] = owner.rows[priority] + rows
    room, turn = room - rows, turn + 1
    if alone then break end
  end
end
if #taken > 0 then set_state(worker, 'busy') end
return {taken, waits}
"""
)

# id, execution, step, ... -> executions to cancel, executions that are no longer ours, executions somebody looks at
PROGRESS = """
beyond_maxmemory()
local steps, cancel, lost, looked, any = {}, {}, {}, {}, false
for i = 1, #ARGV, 3 do
  local id, exe, step = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if mine(id, exe) then
    call('HSET', job_key(id), 'x_step', step)
    steps[id], any = step, true
    if call('HEXISTS', job_key(id), 'x_cancel') == 1 then cancel[#cancel + 1] = id..':'..exe end
    if call('EXISTS', 'ldm:preview:'..id) == 1 then looked[#looked + 1] = id..':'..exe end
  elseif not ended(id, exe) then
    lost[#lost + 1] = id..':'..exe
  end
end
if any then event('kind', 'progress', 'steps', cjson.encode(steps)) end
return {cancel, lost, looked}
"""

# id, execution, step -> whether the job is still ours: then it would resume from that step
SAVED = """
if not mine(ARGV[1], ARGV[2]) then return 0 end
return call('HSET', job_key(ARGV[1]), 'x_saved', ARGV[3]) and 1
"""

# lease seconds, id, execution, ... -> as PROGRESS
BEAT = """
beyond_maxmemory()
local t, lease, cancel, lost = now(), tonumber(ARGV[1]), {}, {}
local kept = math.ceil(lease) + 60
for i = 2, #ARGV, 2 do
  local id, exe = ARGV[i], ARGV[i + 1]
  if mine(id, exe) then
    local both = id..':'..exe
    call('ZADD', RQ..':wip:'..get(id, 'origin'), stamp(t + lease), both)
    call('HSET', RQ..':execution:'..both, 'last_heartbeat', stamp(t))
    call('EXPIRE', RQ..':execution:'..both, kept)
    call('ZADD', RQ..':executions:'..id, 'XX', stamp(t + kept), exe)
    call('EXPIRE', RQ..':executions:'..id, kept + 60)
    if call('HEXISTS', job_key(id), 'x_cancel') == 1 then cancel[#cancel + 1] = id..':'..exe end
  elseif not ended(id, exe) then
    lost[#lost + 1] = id..':'..exe
  end
end
return {cancel, lost}
"""

# worker, id, execution, status, may retry (1 or 0), seconds worked, images, error, warnings, then RQ's result: field,
# value, ... -> what became of the job, or 'lost' where another execution owns it by now
COMMIT = """
local worker, id, exe, status, retry, seconds = unpack(ARGV, 1, 6)
beyond_maxmemory()
if not mine(id, exe) then
  return ended(id, exe) and get(id, 'status') or 'lost' -- ended: our own commit, whose reply was lost
end
drop_execution(id, exe, get(id, 'origin'), worker)
call('HINCRBYFLOAT', RQ..':worker:'..worker, 'total_working_time', seconds)
if call('HEXISTS', job_key(id), 'x_cancel') == 1 then status = 'canceled' end
if retry == '1' and status == 'failed' then return try_again(id, ARGV[8], ERROR) end
if status == 'finished' then
  call('HSET', job_key(id), 'x_images', ARGV[7], 'x_warnings', ARGV[9], 'x_step', get(id, 'x_steps'))
elseif status == 'failed' then
  call('HSET', job_key(id), 'x_error', ARGV[8])
end
if status ~= 'canceled' then
  call('XADD', RQ..':results:'..id, 'MAXLEN', 10, '*', unpack(ARGV, 10))
  call('HINCRBY', RQ..':worker:'..worker, status == 'finished' and 'successful_job_count' or 'failed_job_count', 1)
end
finish(id, status)
return status
"""

# id, execution, ... oldest first; no retry is burnt
REQUEUE = """
beyond_maxmemory()
local count = 0
for i = #ARGV - 1, 1, -2 do
  local id, exe = ARGV[i], ARGV[i + 1]
  if mine(id, exe) then
    drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
    if call('HEXISTS', job_key(id), 'x_cancel') == 1 then end_alone(id, 'canceled') else to_front(id) end
    count = count + 1
  end
end
return count
"""
