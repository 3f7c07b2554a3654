-- The live state of tasks of one run; nothing when there is no such run.
-- keys: epoch engine run tasks spec rest leases
-- args: run text, tasks packed
-- answers: task state attempts node met first children failures
-- events: none
-- lease: none
-- include: ready
-- time: stands

local found = {}
local live_run = live.run(args.run)
if not live_run then return state.finish(false) end
for at, task in ipairs(args.tasks) do
  local r = live.task(live_run, task)
  local node = r.state == RUNNING and leases.get(r.token).node or ""
  local family = live.children(live_run, task)
  found[at] = {task, r.state, r.attempts, node, live.met(live_run, task), family and family.first or -1,
               family and family.count or 0, r.failures}
end
return state.finish(found)
