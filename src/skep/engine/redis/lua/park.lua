-- Attempts give their leases back and wait to be resolved.
-- keys: epoch engine events run tasks rest nodes running leases held_by claims holders waiters line
-- args: items packed
-- item: run task epoch n reason ran_ms
-- answers: ok not_found superseded
-- events: parked cancelled ended ready
-- lease: the task's
-- include: tasks

local function park(item)
  local run, task, n = live.run(item[1]), item[2], item[4]
  local lease = leases.of(run, task, item[3], n)
  if not lease then return leases.late(run, task, item[3], n, BY_PARK) end
  leases.finish(lease, BY_PARK)
  if run.state == RUN_CANCELLING then return tasks.cancelled(run, lease, item[6]) end
  local said = tasks.said(lease, item[6])
  said.reason = item[5]
  state.emit("parked", run, said)
  ready.park(run, live.touch(run, task))
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = park(item) end
state.flush()
return state.finish(answers)
