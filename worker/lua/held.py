"""What a worker does to the jobs that it holds, from their admission to their end."""

from worker.lua.parked import UNPARK

# worker, token, lease seconds, rows of room, turn, format that it reads, jobs it holds, models, then for each priority
# (high, normal, low) MODEL.PRIORITY of every model, or nothing where none may be taken from it, then the queues to pass
# over
# Strictly high before normal before low, but of every eight jobs one comes from normal first and one from low first.
# A job under which a worker crashed, or four were killed, may be the cause: it runs alone and takes no others with it.
# -> what was taken, and whether such a job waits for this worker to have no other
ADMIT = (
    UNPARK
    + """
local worker, token, format = ARGV[1], ARGV[2], ARGV[6]
local lease, room, turn, held, width =
  tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local kept, taken, waits = math.ceil(lease) + 60, {}, 0
if call('EXISTS', RQ..':suspended') == 1 then return {taken, waits} end

local passed = {}
for i = 9 + 3 * width, #ARGV do passed[ARGV[i]] = true end

-- the next job of the owner whose turn it is
local function pop_ring(base)
  local ring = 'ldm:ring:'..base
  for _ = 1, call('LLEN', ring) do
    local queue = call('LPOP', ring)
    local id = not passed[queue] and call('LPOP', RQ..':queue:'..queue)
    if call('EXISTS', RQ..':queue:'..queue) == 1 then call('RPUSH', ring, queue) end
    if id then return id, queue end
  end
end

local function pop()
  local order = ({[3] = {2, 3, 1}, [7] = {3, 2, 1}})[turn % 8] or {1, 2, 3}
  for _, priority in ipairs(order) do
    for model = 0, width - 1 do
      local base = ARGV[9 + (priority - 1) * width + (model + turn + math.floor(turn / 8)) % width]
      local id, queue = pop_ring(base)
      if id then return id, queue end
    end
  end
end

unpark(format, {unpack(ARGV, 9, 8 + 3 * width)})
local t = now()
while room > 0 do
  local id, queue = pop()
  if not id then break end
  if get(id, 'status') == 'queued' then -- else cancelled, or listed twice by another program's clean-up
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
    room = alone and 0 or room - tonumber(get(id, 'x_rows') or 1)
    turn = turn + 1
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
