-- Jobs of another version, which this worker cannot read, wait in no queue for one that can. Those that its format has
-- not declined go back to the front of their queues.
local function unpark(format, models)
  local mine = {}
  for _, model in ipairs(models) do mine[model] = true end
  for _, id in ipairs(call('SRANDMEMBER', PARKED, 16)) do
    local queue = get(id, 'origin')
    if not queue then
      call('SREM', PARKED, id)
    elseif mine[model_of(queue)] and not string.find(get(id, 'x_declined') or '', format, 1, true) then
      call('SREM', PARKED, id)
      to_front(id)
    end
  end
end
