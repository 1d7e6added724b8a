-- Keeps a job's newest preview, a JPEG in ARGV[2], for `ttl` seconds and tells of it, while a client looks for one.
local id, ttl = unpack(arguments)
if call('SET', PREVIEW..id, ARGV[2], 'XX', 'EX', ttl) then
  event('kind', 'progress', 'steps', cjson.encode({[id] = tonumber(get(id, 'x_step') or 0)}), 'preview', 1)
end
