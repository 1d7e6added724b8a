-- A worker's clean-up. `problem` is the error of a job without retries left, `unlisted` the seconds that a job may be
-- in no list, `lease` those of a lease.
-- -> jobs recovered, jobs healed
local problem, unlisted, lease = unpack(arguments)
local t = now()
beyond_maxmemory()
keep_time(t, lease)
fail_overdue(t)
local recovered, healed, listed = 0, 0, {}
for _, key in ipairs(call('SMEMBERS', QUEUES)) do
  local queue = queue_of(key)
  for _, both in ipairs(call('ZRANGEBYSCORE', LEASES..queue, 0, stamp(t))) do
    local id, exe = string.match(both, '^([^:]+):(.+)$')
    if abandon(id, exe, queue, problem, KILL) then recovered = recovered + 1 end
  end
  for _, registry in pairs(REGISTRY) do call('ZREMRANGEBYSCORE', registry..queue, 0, stamp(t)) end
  trim_open(queue)
  local waiting = call('LRANGE', key, 0, -1)
  for _, id in ipairs(waiting) do listed[id] = true end
  if #waiting > 0 then in_ring(queue, 'RPUSH') end -- another program may have put them there
end
for _, id in ipairs(call('ZRANGEBYSCORE', OPEN, '-inf', stamp(t - unlisted))) do
  local status = get(id, 'status')
  if not status or REGISTRY[status] or status == 'stopped' then
    forget(id)
    tell_end(id, status or 'gone', status and get(id, 'x_webhook'))
  elseif status == 'started' then
    local exe, queue = get(id, 'x_exec'), get(id, 'origin')
    if not exe or not call('ZSCORE', LEASES..queue, id..':'..exe) then
      abandon(id, exe or '', queue, problem, KILL)
      healed = healed + 1
    end
  elseif not listed[id] and call('SISMEMBER', PARKED, id) == 0 then
    to_front(id)
    healed = healed + 1
  end
end
for _, worker in ipairs(call('SMEMBERS', WORKERS)) do
  if call('EXISTS', CARDS..worker) == 0 then call('SREM', WORKERS, worker) end
end
for _, owner in ipairs(call('SRANDMEMBER', OWNERS, 20)) do trim_owner(owner) end
return {recovered, healed}
