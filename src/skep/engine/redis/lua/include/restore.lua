-- Runs that the record knows: taken up where they stood. While chunks come, all is counted that follows from what has ended; what
-- is left to do after the last recorded event follows when the run is opened.
-- include: ends

restore = {}

-- Gives the children of maps their places: {parent, first, count, window} each. Between them may be children that nobody has any
-- more: they have ended.
function restore.families(run, families)
  local total = run.size
  for _, f in ipairs(families) do
    local parent, first, count, window = f[1], f[2], f[3], f[4]
    if first > total then
      local gap = first - total
      live.unfold(run)
      live.grow(run, -1, total, gap, 0)
      local ended = struct.pack("<BBBI4I4I4I4I4I2I8i8I4", SKIPPED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
      redis.call("SETRANGE", run.key .. ":tasks", total * #ended, string.rep(ended, gap))
      run.blocks, run.unfinished = {}, run.unfinished - gap
      run.counts[WAITING + 1], run.counts[SKIPPED + 1] = run.counts[WAITING + 1] - gap, run.counts[SKIPPED + 1] + gap
    end
    live.grow(run, parent, first, count, window)
    total = first + count
  end
end

local function ended(run, r, was)
  local task = r.task
  if not was then run.unfinished = run.unfinished - 1 end
  if task < run.size then
    local met = live.met(run, task)
    for _, successor in ipairs(live.successors(run, task, 0, live.spec(run, task).edges)) do
      local s = live.touch(run, successor)
      s.gone = s.gone + 1
      if not met then s.unmet = s.unmet + 1 end
    end
    if r.state == FAILED then run.failed = bit.bor(run.failed, bit.lshift(1, live.spec(run, task).policy)) end
    return
  end
  local family = live.siblings(run, task)
  if not was then family.ended = family.ended + 1 end
  if r.state == FAILED then
    family.fails = true
  elseif r.state == CANCELLED then
    family.cancelled = true
  elseif r.state == SKIPPED and not live.has(r, MET) then
    family.skipped = true
  end
end

local function under_way(run, r, was, due)
  local task = r.task
  if was == PARKED then
    live.move(run, r, PARKED)
    if not live.children(run, task) then live.park(run, r) end
  elseif was == DELAYED and due > state.now then
    live.move(run, r, DELAYED)
    redis.call("RPUSH", run.key .. ":due", struct.pack("<I8I4", due, task))
  elseif was == RUNNING then
    live.orphan(run, r, true)
  end
  if task >= run.size then  -- it was let out, and so were those before it
    local family = live.siblings(run, task)
    if task - family.first + 1 > family.released then
      family.released, family.out = task - family.first + 1, family.ended  -- of those before it, until `open` turns it round
    end
  end
end

-- Sets tasks as they are recorded, {task, state, attempts, failures, lost, met, due_ms} each; what was ready, due or running
-- waits until `open` lets it out.
function restore.tasks(run, tasks)
  for _, t in ipairs(tasks) do
    local task, was = t[1], t[2]
    if task < run.total then
      local r = live.touch(run, task)
      local over = r.state >= SUCCEEDED
      r.attempts = t[3]
      if t[4] > 0 then r.failures = t[4] end
      if t[5] > 0 then r.lost = t[5] end
      if t[6] then live.set(r, MET) end
      if was >= SUCCEEDED then
        live.move(run, r, was)
        ended(run, r, over)
      elseif was > WAITING and not over then
        under_way(run, r, was, t[7])
      end
    end
  end
end

-- Those of a chunk's tasks that have a deadline and have not ended, by deadline.
function restore.deadlines(run, first, count)
  local lists = {}
  for task = first, math.min(first + count, run.total) - 1 do
    if live.task(run, task).state < SUCCEEDED then
      local deadline = live.spec_of(run, task).deadline
      if deadline > 0 then
        lists[deadline] = lists[deadline] or {}
        table.insert(lists[deadline], struct.pack("<I4", task))
      end
    end
  end
  local key = "run:" .. run.id .. ":limits"
  for deadline, list in pairs(lists) do
    local name = string.format("%.0f", deadline)
    state.hash(key)[name] = (state.field(key, name) or "") .. table.concat(list)
  end
end

local function families(run)
  local found = {}
  for number = 1, #run.firsts do
    local family = live.family(run, number)
    if live.is_current(run, family) then found[#found + 1] = family end
  end
  return found
end

-- Counts anew what follows from the states, once all chunks are there.
function restore.count(run)
  for _, family in ipairs(families(run)) do
    local parked = live.task(run, family.parent).state == PARKED
    if parked then
      local policy = live.spec(run, family.parent).policy
      family.out, family.failed = family.released - family.out, family.fails and policy ~= POLICY_CONTINUE
      if family.fails then run.failed = bit.bor(run.failed, bit.lshift(1, policy)) end
    else
      family.released, family.out, family.cancelled, family.skipped = 0, 0, false, false
      if live.task(run, family.parent).state < SUCCEEDED and family.ended == family.count then
        live.touch(run, family.parent).family = 0  -- a retry made it wait, and its children are to be made anew
      end
    end
  end
  run.failing = bit.band(run.failed, 3) > 0
end

-- Does what followed from the last recorded event, then lets out what can start.
function restore.resume(run)
  ends.delay(run, 0)
  if run.state == RUN_CANCELLING then
    ends.leave_cursor(run, "cancel", -1, 0)
  elseif bit.band(run.failed, 2) > 0 then
    ends.begin_cancel(run, "task_failed", 0)
  end
  for _, family in ipairs(families(run)) do
    local parent = live.task(run, family.parent).state
    if family.ended < family.count then
      if parent >= SUCCEEDED then ends.drop_children(run, family.parent) end
    elseif parent == PARKED then
      ends.join(run, family)
    end
  end
  if run.state == RUN_CANCELLING then
    ends.advance(run)
  elseif run.state < RUN_SUCCEEDED then
    ends.let_out(run, 0)
    for _, family in ipairs(families(run)) do
      if live.task(run, family.parent).state == PARKED then ends.release_children(run, family) end
    end
  end
  if run.parked > 0 then live.rest(run) end
end
