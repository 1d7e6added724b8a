-- Where Redis' clock has jumped, or nobody was there to look for a minute, every lease and every wait goes on from now.
local function keep_time(t, lease)
  local gap = t - tonumber(call('GET', CLOCK) or t)
  call('SET', CLOCK, stamp(t))
  if gap > -1 and gap < 60 then return end
  for _, key in ipairs(call('SMEMBERS', QUEUES)) do
    local wip = LEASES..queue_of(key)
    for _, both in ipairs(call('ZRANGE', wip, 0, -1)) do call('ZADD', wip, stamp(t + lease), both) end
  end
  for _, id in ipairs(call('ZRANGE', DUE, 0, -1)) do call('ZINCRBY', DUE, stamp(gap), id) end
  if gap > 0 then return end -- webhooks that came due while nobody was there are overdue
  for _, host in ipairs(call('ZRANGE', WEBHOOKS, 0, -1)) do
    local waiting = WEBHOOKS_OF..host
    for _, id in ipairs(call('ZRANGE', waiting, 0, -1)) do call('ZINCRBY', waiting, stamp(gap), id) end
    turn_of_host(host)
  end
end

-- jobs that no worker has taken in time
local function fail_overdue(t)
  for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', stamp(t), 'LIMIT', 0, 100)) do
    call('ZREM', DUE, id)
    if get(id, 'status') == 'queued' then
      call('LREM', QUEUE..get(id, 'origin'), 0, id)
      call('SREM', PARKED, id)
      call('HSET', JOB..id, 'x_error', cjson.encode({type = 'about:blank', title = 'Service Unavailable',
        status = 503, detail = 'No worker took the job within '..get(id, 'x_wait_s')..' s.'}))
      end_alone(id, 'failed')
    end
  end
end
