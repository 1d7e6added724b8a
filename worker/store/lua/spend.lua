-- Where an owner stands in its `rate`, jobs in `window` seconds, of which `cost` jobs are taken first. The same GCRA as
-- of `enqueue`, in the same key. What is taken is never refused but owed, at most one window ahead: the work that it
-- stands for is done.
-- -> seconds until one more may come (0: at once), how many may come at once then, seconds until as many as the whole
-- rate may
local owner, rate, window, cost = unpack(arguments)
local t, gap, pace = now(), window / rate, RATE..owner
local due = math.max(tonumber(call('GET', pace) or 0), t)
if cost > 0 then
  due = math.min(due + cost * gap, t + 2 * window)
  call('SET', pace, stamp(due), 'PX', math.ceil((due - t) * 1000))
end
local remaining = math.max(0, math.floor((t + window - due) / gap + 0.001))
local wait = remaining > 0 and 0 or due + gap - t - window
return {stamp(wait), remaining, stamp(due - t)}
