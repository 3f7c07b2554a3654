-- The ends of an attempt, as far as several verbs share them.
-- include: ends

tasks = {}

-- The fields of the event that ends an attempt.
function tasks.said(lease, ran)
  return {task = lease.task, attempt = lease.attempt, token = lease.n, token_epoch = EPOCH, started_ms = state.now - ran, ran_ms = ran}
end

-- The task is tried again: at `due`, or at once (0).
function tasks.come_back(run, task, due)
  if due == 0 then return ready.make(run, task, true) end
  local r = live.touch(run, task)
  live.move(run, r, DELAYED)
  if run.parked > 0 then ready.unpark(run, r) end
  state.push("delays", due, "delay", run.id, task, r.version)
end

-- An attempt whose run is being cancelled ends with it, instead of going on later.
function tasks.cancelled(run, lease, ran)
  local said = tasks.said(lease, ran)
  said.reason = run.reason
  state.emit("cancelled", run, said)
  ends.task(run, lease.task, CANCELLED)
  return OK
end
