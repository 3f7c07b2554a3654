-- Attempts give their leases back and come again later.
-- keys: epoch engine events run tasks rest nodes running leases held_by claims holders waiters line delays
-- args: items packed
-- item: run task epoch n in_ms ran_ms
-- answers: ok not_found superseded
-- events: snoozed cancelled ended ready
-- lease: the task's
-- include: tasks

local function snooze(item)
  local run, task, n = live.run(item[1]), item[2], item[4]
  local lease = leases.of(run, task, item[3], n)
  if not lease then return leases.late(run, task, item[3], n, BY_SNOOZE) end
  leases.finish(lease, BY_SNOOZE)
  if run.state == RUN_CANCELLING then return tasks.cancelled(run, lease, item[6]) end
  local due, said = state.now + math.max(item[5], 1), tasks.said(lease, item[6])
  said.due_ms = due
  state.emit("snoozed", run, said)
  tasks.come_back(run, task, due)
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = snooze(item) end
state.flush()
return state.finish(answers)
