"""What becomes of the jobs of workers that are gone."""

# worker, iso time, error for a job without retries left, whether it crashed (1 or 0) -> how many jobs it had
REVOKE = """
local worker, iso, err, cost = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1' and CRASH or KILL
local held = call('SMEMBERS', RQ..':worker:'..worker..':executions')
for _, both in ipairs(held) do
  local id, exe = string.match(both, '^([^:]+):(.+)$')
  local queue = get(id, 'origin')
  if queue then abandon(id, exe, queue, iso, err, cost) end
end
for _, queue in ipairs(call('SMEMBERS', RQ..':queues')) do
  call('SREM', RQ..':workers:'..string.sub(queue, #RQ + 8), RQ..':worker:'..worker)
end
call('SREM', RQ..':workers', RQ..':worker:'..worker)
call('SREM', 'ldm:workers', worker)
call('DEL', RQ..':worker:'..worker, RQ..':worker:'..worker..':executions')
call('DEL', 'ldm:worker:'..worker, 'ldm:commands:'..worker)
return #held
"""

# iso time, error for a job without retries left, seconds a job may be in no list -> jobs recovered, jobs healed
MAINTAIN = """
local iso, err, t = ARGV[1], ARGV[2], now()
local recovered, healed, listed = 0, 0, {}
for _, key in ipairs(call('SMEMBERS', RQ..':queues')) do
  local queue = string.sub(key, #RQ + 8)
  for _, both in ipairs(call('ZRANGEBYSCORE', RQ..':wip:'..queue, 0, stamp(t))) do
    local id, exe = string.match(both, '^([^:]+):(.+)$')
    if abandon(id, exe, queue, iso, err, KILL) then recovered = recovered + 1 end
  end
  for _, registry in pairs(REGISTRY) do call('ZREMRANGEBYSCORE', registry..queue, 0, stamp(t)) end
  local waiting = call('LRANGE', key, 0, -1)
  for _, id in ipairs(waiting) do listed[id] = true end
  if #waiting > 0 then in_ring(queue, 'RPUSH') end -- another program may have put them there
end
for _, id in ipairs(call('ZRANGEBYSCORE', 'ldm:open', '-inf', stamp(t - tonumber(ARGV[3])))) do
  local status = get(id, 'status')
  if not status or REGISTRY[status] or status == 'stopped' then
    call('ZREM', 'ldm:open', id)
    event('kind', 'end', 'id', id, 'status', status or 'gone')
  elseif status == 'started' then
    local exe, queue = get(id, 'x_exec'), get(id, 'origin')
    if not exe or not call('ZSCORE', RQ..':wip:'..queue, id..':'..exe) then
      abandon(id, exe or '', queue, iso, err, KILL)
      healed = healed + 1
    end
  elseif not listed[id] then
    to_front(id)
    healed = healed + 1
  end
end
for _, worker in ipairs(call('SMEMBERS', 'ldm:workers')) do
  if call('EXISTS', 'ldm:worker:'..worker) == 0 then call('SREM', 'ldm:workers', worker) end
end
for _, owner in ipairs(call('SMEMBERS', 'ldm:owners')) do
  local jobs = 'ldm:jobs:'..owner
  for _, id in ipairs(call('ZRANGE', jobs, 0, 99)) do
    if call('EXISTS', job_key(id)) == 0 then call('ZREM', jobs, id) end
  end
  if call('EXISTS', jobs) == 0 then call('SREM', 'ldm:owners', owner) end
end
return {recovered, healed}
"""
