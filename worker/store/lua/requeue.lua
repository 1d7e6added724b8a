-- Puts jobs back at the front of their queues; no retry is burnt. `held`, oldest first: of each execution its job and
-- its name.
local held = unpack(arguments)
beyond_maxmemory()
return take_back(held, function(id)
  if call('HEXISTS', JOB..id, 'x_cancel') == 1 then end_alone(id, 'canceled') else to_front(id) end
end)
