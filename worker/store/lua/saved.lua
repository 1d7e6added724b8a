-- -> whether the job is still this execution's: then it would resume from that step
local id, exe, step = unpack(arguments)
if not mine(id, exe) then return 0 end
call('HSET', JOB..id, 'x_saved', step)
return 1
