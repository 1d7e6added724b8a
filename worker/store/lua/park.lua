-- Leaves a job to a worker of another version, as `format` cannot read it; no retry is burnt.
local id, exe, format = unpack(arguments)
beyond_maxmemory()
if not mine(id, exe) then return 0 end
drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
if call('HEXISTS', JOB..id, 'x_cancel') == 1 then end_alone(id, 'canceled') return 0 end
call('HINCRBY', JOB..id, 'x_starts', -1)
call('HSET', JOB..id, 'status', 'queued', 'started_at', '', 'worker_name', '',
  'x_declined', (get(id, 'x_declined') or '')..format..',')
must_be_taken(id, tonumber(get(id, 'x_since') or now()))
call('SADD', PARKED, id)
event('kind', 'queued', 'id', id)
return 1
