-- Takes webhooks' deliveries that are due, for `lease` seconds: at most `room`, and of each host at most `each` less
-- those that `running` counts.
-- -> of each its host, its job and the number of this attempt (0: the job's record is gone, and with it the delivery);
-- and the seconds until another may be due (-1: none waits)
local lease, room, each, running = unpack(arguments)
beyond_maxmemory()
local t, taken = now(), {}
for _, host in ipairs(call('ZRANGEBYSCORE', WEBHOOKS, '-inf', stamp(t))) do
  local waiting, free = WEBHOOKS_OF..host, math.min(room - #taken, each - (running[host] or 0))
  for _, id in ipairs(free > 0 and call('ZRANGEBYSCORE', waiting, '-inf', stamp(t), 'LIMIT', 0, free) or {}) do
    local attempt = 0
    if call('EXISTS', JOB..id) == 1 then
      attempt = call('HINCRBY', JOB..id, 'x_told', 1)
      call('ZADD', waiting, stamp(t + lease), id)
    else
      call('ZREM', waiting, id)
    end
    taken[#taken + 1] = {host, id, attempt}
  end
  turn_of_host(host)
end
local later = call('ZRANGEBYSCORE', WEBHOOKS, '('..stamp(t), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {taken, stamp(later[2] and later[2] - t or -1)}
