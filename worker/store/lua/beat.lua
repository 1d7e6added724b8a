-- Renews the leases of `held`, of each execution its job and its name.
-- -> jobs to cancel, executions that are no longer this worker's
local lease, held = unpack(arguments)
beyond_maxmemory()
local t, cancel, lost = now(), {}, {}
local kept = math.ceil(lease) + 60
for _, each in ipairs(held) do
  local id, exe = unpack(each)
  if mine(id, exe) then
    local both = id..':'..exe
    call('ZADD', LEASES..get(id, 'origin'), stamp(t + lease), both)
    call('HSET', EXECUTION..both, 'last_heartbeat', stamp(t))
    call('EXPIRE', EXECUTION..both, kept)
    call('ZADD', EXECUTIONS..id, 'XX', stamp(t + kept), exe)
    call('EXPIRE', EXECUTIONS..id, kept + 60)
    if call('HEXISTS', JOB..id, 'x_cancel') == 1 then cancel[#cancel + 1] = id end
  elseif not ended(id, exe) then
    lost[#lost + 1] = id..':'..exe
  end
end
return {cancel, lost}
