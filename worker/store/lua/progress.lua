-- `steps`: of each execution its job, its name and the step that it has reached
-- -> jobs to cancel, executions that are no longer this worker's, jobs of which somebody wants previews
local steps = unpack(arguments)
beyond_maxmemory()
local told, cancel, lost, previews = {}, {}, {}, {}
for _, each in ipairs(steps) do
  local id, exe, step = unpack(each)
  if mine(id, exe) then
    call('HSET', JOB..id, 'x_step', step)
    told[id] = step
    if call('HEXISTS', JOB..id, 'x_cancel') == 1 then cancel[#cancel + 1] = id end
    if call('EXISTS', PREVIEW..id) == 1 then previews[#previews + 1] = id end
  elseif not ended(id, exe) then
    lost[#lost + 1] = id..':'..exe
  end
end
if next(told) then event('kind', 'progress', 'steps', cjson.encode(told)) end
return {cancel, lost, previews}
