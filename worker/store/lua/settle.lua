-- Ends one `attempt` to deliver a job's webhook: another is due after `wait` seconds, or none (-1).
-- -> whether the delivery was still this attempt's
local host, id, attempt, wait = unpack(arguments)
beyond_maxmemory()
local told = get(id, 'x_told') -- without the job's record nobody else can have begun another
if told and tonumber(told) ~= attempt then return 0 end
if wait < 0 then call('ZREM', WEBHOOKS_OF..host, id) else call('ZADD', WEBHOOKS_OF..host, stamp(now() + wait), id) end
turn_of_host(host)
return 1
