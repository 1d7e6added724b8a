"""Jobs that a worker cannot read, as they come from another version: they wait, in no queue, for one that can."""

UNPARK = """
-- what this worker's format has not declined goes back to the front of its queue
local function unpark(format, models)
  local mine = {}
  for _, model in ipairs(models) do mine[model] = true end
  for _, id in ipairs(call('SRANDMEMBER', 'ldm:parked', 16)) do
    local queue = get(id, 'origin')
    if not queue then
      call('SREM', 'ldm:parked', id)
    elseif mine[model_of(queue)] and not string.find(get(id, 'x_declined') or '', format, 1, true) then
      call('SREM', 'ldm:parked', id)
      to_front(id)
    end
  end
end
"""

# id, execution, format that cannot read it; no retry is burnt
PARK = """
local id, exe, format = unpack(ARGV)
beyond_maxmemory()
if not mine(id, exe) then return 0 end
drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
if call('HEXISTS', job_key(id), 'x_cancel') == 1 then end_alone(id, 'canceled') return 0 end
call('HINCRBY', job_key(id), 'x_starts', -1)
call('HSET', job_key(id), 'status', 'queued', 'started_at', '', 'worker_name', '',
  'x_declined', (get(id, 'x_declined') or '')..format..',')
must_be_taken(id, tonumber(get(id, 'x_since') or now()))
call('SADD', 'ldm:parked', id)
event('kind', 'queued', 'id', id)
return 1
"""
