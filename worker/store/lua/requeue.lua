-- Puts jobs back at the front of their queues; no retry is burnt. `held`, oldest first: of each execution its job and
-- its name.
local held = unpack(arguments)
beyond_maxmemory()
local count = 0
for i = #held, 1, -1 do
  local id, exe = unpack(held[i])
  if mine(id, exe) then
    drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
    if call('HEXISTS', JOB..id, 'x_cancel') == 1 then end_alone(id, 'canceled') else to_front(id) end
    count = count + 1
  end
end
return count
