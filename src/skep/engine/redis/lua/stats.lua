-- What is live now, from counters. The oldest ready task is looked for among the first of each queue.
-- keys: epoch engine queues ready run tasks spec rest
-- args:
-- answers: states runs live_tasks oldest_ready_ms
-- events: none
-- lease: none
-- include: ready
-- time: stands

local oldest = 0
for _, name in ipairs(redis.call("ZRANGE", P .. "queues", 0, -1)) do
  for _, who in ipairs(redis.call("ZRANGE", P .. "ready:" .. name, 0, STATS_LOOK - 1)) do
    local run, task = live.run(string.sub(who, 1, -8)), tonumber(string.sub(who, -6))
    local since = live.task(run, task).score + live.spec_of(run, task).order
    if oldest == 0 or since < oldest then oldest = since end
  end
end
return state.finish({state.counts, state.open_runs, state.live, oldest})
