-- What a gateway does while there may be no worker that looks after the queues; `lease` in seconds.
local lease = unpack(arguments)
local t = now()
beyond_maxmemory()
keep_time(t, lease)
fail_overdue(t)
