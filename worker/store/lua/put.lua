-- Stores a blob that a worker must not lose, also where Redis is full. Its bytes are ARGV[2].
local key, ttl_ms = unpack(arguments)
beyond_maxmemory()
call('SET', key, ARGV[2], 'PX', ttl_ms)
