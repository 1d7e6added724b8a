-- -> the position of each job; false where it is in no queue
local ids = unpack(arguments)
local of, positions = {}, {}
for i, id in ipairs(ids) do
  local queue = get(id, 'origin')
  local place = queue and call('LPOS', QUEUE..queue, id)
  if place then of[queue] = of[queue] or positions_in(queue) end
  positions[i] = place and of[queue](place)
end
return positions
