-- What follows from the end of a task, in the same step: unblock, join, cancel, the end of the run. All of it is bounded: what
-- one call may not release any more is left to a cursor, which `promote` advances.
-- include: ready look

ends = {}
local KINDS = {[SUCCEEDED] = "succeeded", [FAILED] = "failed", [CANCELLED] = "cancelled", [SKIPPED] = "skipped"}
ends.KINDS = KINDS

-- The attempt ended through no fault of its own. `said`: what is known of its end, for the event.
function ends.lose(run, lease, reason, said)
  local task = lease.task
  local r = live.touch(run, task)
  said.task, said.attempt, said.token, said.token_epoch = task, lease.attempt, lease.n, EPOCH
  if reason == "lost" then r.lost = r.lost + 1 end
  if run.state == RUN_CANCELLING then
    said.reason = run.reason
    state.emit("cancelled", run, said)
    ends.task(run, task, CANCELLED)
  elseif r.lost >= state.max_lost then
    said.reason = "node_lost"
    state.emit("failed", run, said)
    ends.task(run, task, FAILED)
  else
    said.reason = reason
    state.emit("returned", run, said)
    ready.make(run, task, true)
  end
end

-- The node is gone: the task may be tried elsewhere, at once. What a lost one holds of claims stays taken until it must have ended.
function ends.return_lease(n, reason)
  local lease = leases.get(n)
  local run, node, kept = live.run(lease.run), nodes.get(lease.node), {}
  if reason == "lost" and node.beats then
    for _, claim in ipairs(lease.claims) do kept[#kept + 1] = claim[1] end
    lease.claims = {}
    local waits = {}
    for _, asked in ipairs(leases.asks(lease)) do
      if asked[2] > 0 then waits[#waits + 1] = asked else kept[#kept + 1] = asked[1] end
    end
    if lease.asked then leases.keep_asks(lease, waits) end
  end
  leases.finish(lease, BY_RETURN)
  for _, key in ipairs(kept) do state.push("limits", node.beat + CLAIMS_KEPT_MS, "claim", key, lease.task, n) end
  ends.lose(run, lease, reason, {node = lease.node})
end

-- A node leaves, and its leases return.
function ends.leave(node, reason)
  node.gone = true
  state.emit(reason == "lost" and "lost" or "retired", nil, {node = node.id, count = node.incarnation})
  for _, n in ipairs(nodes.leases(node)) do ends.return_lease(n, reason) end
  nodes.forget(node)
end

-- Nobody came for the attempt that ran under an earlier engine: it is lost.
function ends.lapse(run, r)
  live.touch(run, r.task)
  live.orphan(run, r, false)
  r.lost = r.lost + 1
  state.emit("returned", run, {task = r.task, attempt = r.attempts, reason = "lost"})
end

local function failed(run, policy)
  if policy == POLICY_FAIL then
    run.failing = true
  elseif policy == POLICY_CANCEL then
    run.failing = true
    ends.begin_cancel(run, "task_failed", 0)
  end
end

local function child_ended(run, family, task, ended)
  family.ended = family.ended + 1
  if task - family.first < family.released then family.out = family.out - 1 end  -- else its deadline came before its turn
  if ended == FAILED then
    if live.policy(run, task) ~= POLICY_CONTINUE then family.failed = true end
  elseif ended == CANCELLED then
    family.cancelled = true
  elseif ended == SKIPPED and not live.has(live.task(run, task), MET) then
    family.skipped = true
  end
  if not live.is_current(run, family) or live.task(run, family.parent).state ~= PARKED then return end
  if family.ended == family.count then
    ends.join(run, family)
  else
    ends.release_children(run, family)
  end
end

-- The task has ended: its event is written; now its consequences.
function ends.task(run, task, ended)
  local r = live.touch(run, task)
  live.move(run, r, ended)
  run.unfinished = run.unfinished - 1
  if run.held > 0 or run.waits > 0 then ready.leave_lists(run, r) end
  if run.parked > 0 or run.orphans > 0 then
    live.orphan(run, r, false)
    ready.unpark(run, r)
  end
  if ended == FAILED then failed(run, live.policy(run, task)) end
  local family = live.children(run, task)
  if family and family.ended < family.count then ends.drop_children(run, task) end
  if task >= run.size then
    child_ended(run, live.siblings(run, task), task, ended)
  elseif live.spec(run, task).edges > 0 then
    ends.unblock(run, task, 0)
  end
  if run.unfinished == 0 and run.state < RUN_SUCCEEDED then ends.run(run) end
end

-- Counts the end of `task` down in those who need it, from `position` on, as far as the budget goes.
function ends.unblock(run, task, position)
  local count, met = live.spec(run, task).edges, live.met(run, task)
  local stop = math.min(count, position + math.max(state.budget, 0))
  for _, successor in ipairs(live.successors(run, task, position, stop)) do
    local r = live.touch(run, successor)
    r.gone = r.gone + 1
    if not met then r.unmet = r.unmet + 1 end
    if r.state == WAITING and r.gone == live.spec(run, successor).needs then ready.make(run, successor) end
  end
  state.budget = state.budget - (stop - position)
  if stop < count then ends.leave_cursor(run, "unblock", task, stop) end
end

-- Lets children out up to the family's window, as far as the budget goes.
function ends.release_children(run, family)
  local task, stop = family.first + family.released, family.first + family.count
  while task < stop and family.out < family.window and state.budget > 0 do
    if live.task(run, task).state == WAITING then
      ready.make(run, task)
      family.out = family.out + 1
    end
    task = task + 1
    state.budget = state.budget - 1
  end
  family.released = task - family.first
  if task < stop and family.out < family.window then ends.leave_cursor(run, "map", family.parent, 0) end
end

-- The last child has ended: so does its parent.
function ends.join(run, family)
  local ended, reason = SUCCEEDED, ""
  if family.failed then
    ended, reason = FAILED, "child_failed"
  elseif family.cancelled then
    ended, reason = CANCELLED, run.reason
  elseif family.skipped then
    ended, reason = SKIPPED, "run_failed"
  end
  state.emit(KINDS[ended], run, {task = family.parent, reason = reason})
  ends.task(run, family.parent, ended)
end

-- Children that a `retry` made wait again, and that nobody will let out any more.
function ends.drop_children(run, parent)
  local family = live.children(run, parent)
  if not family then return end
  live.touch(run, parent).family = 0
  local left = {}
  for task = family.first, family.first + family.count - 1 do
    if live.task(run, task).state < SUCCEEDED then left[#left + 1] = task end
  end
  if left[1] then
    state.emit("skipped", run, {tasks = left, reason = "upstream"})
    for _, task in ipairs(left) do ends.task(run, task, SKIPPED) end
  end
end

-- Sets the run cancelling and leaves the sweep to a cursor.
function ends.begin_cancel(run, reason, command)
  if run.state ~= RUN_RUNNING then return end
  run.state, run.reason = RUN_CANCELLING, reason
  state.emit("cancelling", run, {reason = reason, command = command})
  run.cursors = {}  -- nothing more is let out; what was not, is swept
  ends.leave_cursor(run, "cancel", -1, 0)
end

local function sweep(run, position)
  state.flush()  -- what became ready in this very call is told before it is told to be cancelled
  local stop = math.min(run.total, position + math.max(state.budget, 0))
  state.budget = state.budget - (stop - position)
  local swept, running, together, alone = {}, {}, {}, {}
  for task = position, stop - 1 do
    local r = live.task(run, task)
    if r.state == RUNNING then
      running[#running + 1] = r
    elseif r.state < SUCCEEDED and not (r.state == PARKED and live.children(run, task)) then
      swept[#swept + 1] = task
      if live.left_attempt(r) then alone[#alone + 1] = r else together[#together + 1] = task end
    end
  end
  if stop < run.total then ends.leave_cursor(run, "cancel", -1, stop) end
  if together[1] then state.emit("cancelled", run, {tasks = together, reason = run.reason}) end
  for _, r in ipairs(alone) do
    state.emit("cancelled", run, {task = r.task, attempt = r.attempts, reason = run.reason})
  end
  for _, r in ipairs(running) do nodes.stop(nodes.get(leases.get(r.token).node), r.token, "cancel") end
  for _, task in ipairs(swept) do live.move(run, live.touch(run, task), CANCELLED) end
  for _, task in ipairs(swept) do ends.task(run, task, CANCELLED) end
end

-- Lets out what needs nothing, as far as the budget goes. Restored and small runs have no list of that: their tasks are looked
-- through.
function ends.let_out(run, position)
  if run.restored or run.roots == 0 then return ends.look_through(run, position) end
  local stop = math.min(run.roots, position + math.max(state.budget, 0))
  local packed = stop > position and redis.call("GETRANGE", run.key .. ":roots", position * 4, stop * 4 - 1) or ""
  for at = 1, #packed, 4 do
    local task = struct.unpack("<I4", packed, at)
    if live.task(run, task).state == WAITING then ready.make(run, task) end
  end
  state.budget = state.budget - (stop - position)
  if stop < run.roots then ends.leave_cursor(run, "open", -1, stop) end
end

function ends.look_through(run, position)
  local looked = 0
  while position < run.total and state.budget > 0 and looked < LOOK_LIMIT do
    if live.may_start(run, position) then
      ready.make(run, position)
      state.budget = state.budget - 1
    end
    position, looked = position + 1, looked + 1
  end
  if position < run.total then ends.leave_cursor(run, "open", -1, position) end
end

function ends.leave_cursor(run, kind, task, position)
  run.cursors[#run.cursors + 1] = {kind, task, position}
  redis.call("ZADD", P .. "sweeping", "NX", state.next(), run.id)
  state.stir("due")
end

-- Works the run's cursors off as far as the budget goes.
function ends.advance(run)
  redis.call("ZREM", P .. "sweeping", run.id)
  for _ = 1, #run.cursors do
    if state.budget <= 0 or not run.cursors[1] then break end
    local cursor = table.remove(run.cursors, 1)
    local kind, task, position = cursor[1], cursor[2], cursor[3]
    if kind == "unblock" then
      ends.unblock(run, task, position)
    elseif kind == "map" then
      ends.release_children(run, live.children(run, task))
    elseif kind == "cancel" then
      sweep(run, position)
    elseif kind == "held" then
      ends.let_go(run)
    elseif kind == "delayed" then
      ends.delay(run, position)
    else
      ends.let_out(run, position)
    end
  end
  if run.cursors[1] then redis.call("ZADD", P .. "sweeping", "NX", state.next(), run.id) end
end

-- What a pause put aside is offered again.
function ends.let_go(run)
  local tasks = redis.call("ZRANGE", run.key .. ":held", 0, math.max(state.budget, 1) - 1)
  for _, task in ipairs(tasks) do
    local r = live.touch(run, tonumber(task))
    live.clear(r, HELD)
    ready.enter(run, r)
  end
  run.held = run.held - #tasks
  redis.call("ZREMRANGEBYRANK", run.key .. ":held", 0, #tasks - 1)
  state.budget = state.budget - #tasks
  if run.held > 0 then ends.leave_cursor(run, "held", -1, 0) end
end

-- Restored tasks that are due later.
function ends.delay(run, position)
  local stop = position + math.max(state.budget, 1)
  local list = redis.call("LRANGE", run.key .. ":due", position, stop - 1)
  for _, packed in ipairs(list) do
    local due, task = struct.unpack("<I8I4", packed)
    state.push("delays", due, "delay", run.id, task, live.task(run, task).version)
  end
  if #list < stop - position then
    redis.call("UNLINK", run.key .. ":due")
  else
    ends.leave_cursor(run, "delayed", -1, stop)
  end
end

-- All of it has ended, and so has the run.
function ends.close(run)
  if run.state == RUN_CANCELLING then
    local failed_too = run.reason == "timeout" or run.reason == "task_failed"
    run.state = failed_too and RUN_FAILED or RUN_CANCELLED
  elseif run.failing then
    run.state, run.reason = RUN_FAILED, "task_failed"
  else
    run.state = RUN_SUCCEEDED
  end
  if run.cursors[1] then redis.call("ZREM", P .. "sweeping", run.id) end
  run.cursors = {}
  state.live = state.live - run.total
  if run.counted then live.count(run, -1) end
end

function ends.tell(run)
  run.ended_n = state.emit("ended", run, {state = run.state, reason = run.reason})
  state.ended[#state.ended + 1] = cmsgpack.pack({run.ended_n, state.now + FORGET_MS, run.id})
end

function ends.run(run)
  ends.close(run)
  ends.tell(run)
end
