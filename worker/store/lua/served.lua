-- -> what each live worker has published, in the order of their names
local names, published = call('SMEMBERS', WORKERS), {}
table.sort(names)
for _, name in ipairs(names) do published[#published + 1] = call('GET', CARDS..name) or nil end
return published
