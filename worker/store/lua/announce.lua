-- Says that a worker lives: its model cards, the rows and steps it has taken, what to remember of its models, and of each
-- the digest of its weights and its dtype, all for the seconds of a lease.
-- -> nothing, or {difference, model, the other's value, the other's name}: a live worker has other weights under one of
-- these ids ('weights', and then this one is not entered), or computes it in another dtype ('dtype')
local worker, cards, taken, lease, models, weights = unpack(arguments)
local found = {}
for _, name in ipairs(call('SMEMBERS', WORKERS)) do
  local published = name ~= worker and call('GET', WEIGHTS..name)
  for model, theirs in pairs(published and cjson.decode(published) or {}) do
    local ours = weights[model]
    if ours and ours[1] ~= theirs[1] then return {'weights', model, theirs[1], name} end
    if ours and ours[2] ~= theirs[2] then found = {'dtype', model, theirs[2], name} end
  end
end
beyond_maxmemory()
call('SET', CARDS..worker, cards, 'EX', lease)
call('SET', TAKEN..worker, taken, 'EX', lease)
call('SET', WEIGHTS..worker, cjson.encode(weights), 'EX', lease)
call('SADD', WORKERS, worker)
for _, model in ipairs(models) do call('ZADD', KNOWN_MODELS, now(), model) end
call('ZREMRANGEBYSCORE', KNOWN_MODELS, 0, now() - 7 * 24 * 3600) -- until then a model that nobody serves is known
return found
