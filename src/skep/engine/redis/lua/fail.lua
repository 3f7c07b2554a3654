-- Attempts failed, were cancelled or were lost with their process; those with a retry go on.
-- keys: epoch engine events run tasks spec edges rest nodes running leases held_by claims holders waiters line queues ready delays sweeping
-- args: items packed
-- item: run task epoch n reason error ran_ms retry_in_ms cancelled lost; `error` is the number of a payload
-- answers: ok not_found superseded
-- events: failed cancelled retrying returned ready ended cancelling
-- lease: the task's
-- include: tasks

local function fail(item)
  local run, task, n = live.run(item[1]), item[2], item[4]
  local lease = leases.of(run, task, item[3], n)
  if not lease then return leases.late(run, task, item[3], n, BY_FAIL) end
  leases.finish(lease, BY_FAIL)
  local said = tasks.said(lease, item[7])
  said.error = payload(item[6])
  if item[9] then
    said.reason = item[5]
    state.emit("cancelled", run, said)
    ends.task(run, task, CANCELLED)
    return OK
  end
  if item[10] then
    said.node = lease.node
    ends.lose(run, lease, "lost", said)
    return OK
  end
  local r = live.touch(run, task)
  r.failures = r.failures + 1
  said.reason = item[5]
  if item[8] < 0 or run.state == RUN_CANCELLING then
    state.emit("failed", run, said)
    ends.task(run, task, FAILED)
  else
    local due = item[8] > 0 and state.now + item[8] or 0
    said.due_ms = due
    state.emit("retrying", run, said)
    tasks.come_back(run, task, due)
  end
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = fail(item) end
state.flush()
return state.finish(answers)
