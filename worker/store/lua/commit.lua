-- Ends a job after `seconds` of work, or puts it back where it failed and may `retry`. `images`, `problem` and
-- `warnings` are texts of JSON; `result` has the fields of RQ's result and their values by turns.
-- -> what became of the job, or 'lost' where another execution owns it by now
local worker, id, exe, status, retry, seconds, images, problem, warnings, result = unpack(arguments)
beyond_maxmemory()
if not mine(id, exe) then
  return ended(id, exe) and get(id, 'status') or 'lost' -- ended: our own commit, whose reply was lost
end
drop_execution(id, exe, get(id, 'origin'), worker)
call('HINCRBYFLOAT', RQ_WORKER..worker, 'total_working_time', seconds)
if call('HEXISTS', JOB..id, 'x_cancel') == 1 then status = 'canceled' end
if retry and status == 'failed' then return try_again(id, problem, ERROR) end
if status == 'finished' then
  call('HSET', JOB..id, 'x_images', images, 'x_warnings', warnings, 'x_step', get(id, 'x_steps'))
elseif status == 'failed' then
  call('HSET', JOB..id, 'x_error', problem)
end
if status ~= 'canceled' then
  call('XADD', RESULTS..id, 'MAXLEN', 10, '*', unpack(result))
  call('HINCRBY', RQ_WORKER..worker, status == 'finished' and 'successful_job_count' or 'failed_job_count', 1)
end
finish(id, status)
return status
