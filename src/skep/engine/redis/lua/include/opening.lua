-- Lets the first tasks of a run out.
-- include: restore

opening = {}

local function set_limits(run)
  if run.timeout > 0 then state.push("limits", run.accepted + run.timeout, "timeout", run.id) end
  if run.timed then
    for _, deadline in ipairs(redis.call("HKEYS", run.key .. ":limits")) do
      state.push("limits", run.accepted + tonumber(deadline), "deadlines", run.id, tonumber(deadline), 0)
    end
  end
end

-- Its answer: ok not_found wrong_state; the last before the last chunk.
function opening.run(id)
  local run = live.run(id)
  if not run then return NOT_FOUND end
  if run.opened then return OK end
  if run.loaded < run.total then return WRONG_STATE end
  run.opened = true
  if run.restored then restore.count(run) end
  if run.retried and run.unfinished == 0 then
    if run.reason == "" and not run.failing and run.counts[CANCELLED + 1] > 0 then
      run.state, run.reason = RUN_CANCELLING, "cancelled"  -- why it was, nobody knows any more
    end
    ends.close(run)
    return OK
  end
  live.count(run, 1)
  local cancelling = run.state == RUN_CANCELLING
  state.emit("loaded", run, {count = run.total, state = cancelling and run.state or nil, reason = run.reason})
  set_limits(run)
  if run.unfinished == 0 then
    ends.run(run)
  elseif run.restored or cancelling then
    restore.resume(run)
  else
    ends.let_out(run, 0)
  end
  return OK
end
