-- Cancels a job. -> false: unknown; else what it was
local id = unpack(arguments)
local status = get(id, 'status')
beyond_maxmemory()
if status == 'queued' then
  call('LREM', QUEUE..get(id, 'origin'), 0, id)
  call('SREM', PARKED, id)
  end_alone(id, 'canceled')
elseif status == 'started' then
  local commands = COMMANDS..get(id, 'worker_name')
  call('HSET', JOB..id, 'x_cancel', iso(now()))
  call('RPUSH', commands, id)
  call('EXPIRE', commands, 60)
end
return status
