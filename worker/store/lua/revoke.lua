-- Gives a dead worker's jobs back; `problem` is the error of one without retries left. -> how many it had
local worker, problem, crashed = unpack(arguments)
local cost = crashed and CRASH or KILL
beyond_maxmemory()
local held = call('SMEMBERS', held_by(worker))
for _, both in ipairs(held) do
  local id, exe = string.match(both, '^([^:]+):(.+)$')
  local queue = get(id, 'origin')
  if queue then abandon(id, exe, queue, problem, cost) end
end
for _, key in ipairs(call('SMEMBERS', QUEUES)) do
  call('SREM', RQ_WORKERS_OF..queue_of(key), RQ_WORKER..worker)
end
call('SREM', RQ_WORKERS, RQ_WORKER..worker)
call('SREM', WORKERS, worker)
call('DEL', RQ_WORKER..worker, held_by(worker))
call('DEL', CARDS..worker, COMMANDS..worker, WEIGHTS..worker)
return #held
