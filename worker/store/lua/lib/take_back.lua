-- Ends each of these executions that is still its job's, of the oldest first pairs of job and execution, and does `act`
-- with the job; the oldest comes last, and so to the front. -> how many there were
local function take_back(held, act)
  local count = 0
  for i = #held, 1, -1 do
    local id, exe = unpack(held[i])
    if mine(id, exe) then
      drop_execution(id, exe, get(id, 'origin'), get(id, 'worker_name'))
      act(id)
      count = count + 1
    end
  end
  return count
end
