-- Puts jobs back at the front of their queues whose worker has lost its device. `held`, oldest first: of each execution
-- its job and its name; `problem` is the error of a job without retries left. The first losses burn no retry: no job is
-- the cause of a broken device. A job that is there each time may be, and pays as for a crash.
-- -> how many it had
local SPARED = 2
local held, problem = unpack(arguments)
beyond_maxmemory()
return take_back(held, function(id)
  try_again(id, problem, call('HINCRBY', JOB..id, 'x_devices_lost', 1) > SPARED and CRASH or 0)
end)
