-- -> of each live worker, in the order of their names: its model cards, and the rows and steps it has taken
local names, published = call('SMEMBERS', WORKERS), {}
table.sort(names)
for _, name in ipairs(names) do
  local cards = call('GET', CARDS..name)
  if cards then published[#published + 1] = {cards, call('GET', TAKEN..name) or '{}'} end
end
return published
