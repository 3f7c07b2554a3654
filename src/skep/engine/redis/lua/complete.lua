-- Attempts succeeded.
-- keys: epoch engine events run tasks spec edges rest nodes leases held_by claims holders waiters line queues ready sweeping
-- args: items packed
-- item: run task epoch n output ran_ms; `output` is the number of a payload
-- answers: ok not_found superseded
-- events: succeeded ready ended
-- lease: the task's
-- include: tasks

local function complete(item)
  local run, task, n = live.run(item[1]), item[2], item[4]
  local lease = leases.of(run, task, item[3], n)
  if not lease then return leases.late(run, task, item[3], n, BY_COMPLETE) end
  leases.finish(lease, BY_COMPLETE)
  local said = tasks.said(lease, item[6])
  said.output = payload(item[5])
  state.emit("succeeded", run, said)
  ends.task(run, task, SUCCEEDED)
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = complete(item) end
state.flush()
return state.finish(answers)
