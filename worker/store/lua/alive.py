"""How a worker says that it lives."""

# worker, its model cards, lease seconds, what to remember of its models (a list in JSON), then of each model its id,
# the digest of its weights and its dtype
# -> nothing, or {difference, model, the other's value, the other's name}: a live worker has other weights under one of
# these ids ('weights', and then this one is not entered), or computes it in another dtype ('dtype')
ANNOUNCE = """
local worker, cards, lease, models = unpack(ARGV, 1, 4)
local mine, found = {}, {}
for i = 5, #ARGV, 3 do mine[ARGV[i]] = {ARGV[i + 1], ARGV[i + 2]} end
for _, name in ipairs(call('SMEMBERS', 'ldm:workers')) do
  local published = name ~= worker and call('GET', 'ldm:weights:'..name)
  for model, theirs in pairs(published and cjson.decode(published) or {}) do
    local ours = mine[model]
    if ours and ours[1] ~= theirs[1] then return {'weights', model, theirs[1], name} end
    if ours and ours[2] ~= theirs[2] then found = {'dtype', model, theirs[2], name} end
  end
end
beyond_maxmemory()
call('SET', 'ldm:worker:'..worker, cards, 'EX', lease)
call('SET', 'ldm:weights:'..worker, cjson.encode(mine), 'EX', lease)
call('SADD', 'ldm:workers', worker)
for _, model in ipairs(cjson.decode(models)) do call('ZADD', 'ldm:models', now(), model) end
call('ZREMRANGEBYSCORE', 'ldm:models', 0, now() - 7 * 24 * 3600) -- until then a model that nobody serves is known
return found
"""

# key, bytes, milliseconds: stores what a worker must not lose, also where Redis is full
PUT = """
beyond_maxmemory()
call('SET', ARGV[1], ARGV[2], 'PX', ARGV[3])
"""
