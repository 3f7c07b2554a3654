-- Takes ended runs up again: what did not succeed, or the named tasks, and everything after them. All of it in one event, so that
-- no record can have half of it.
-- keys: epoch engine events run tasks spec edges rest queues ready
-- args: items packed
-- item: run number reason tasks
-- answers: ok not_found wrong_state full
-- events: reset ready ended
-- lease: none
-- include: commands

local function edges(run, task) return live.successors(run, task, 0, live.spec(run, task).edges) end

local function did_not_succeed(run)
  local found = {}
  for task = 0, run.size - 1 do
    local r = live.task(run, task)
    if r.state == FAILED or r.state == CANCELLED or (r.state == SKIPPED and not live.has(r, MET)) then found[#found + 1] = task end
  end
  return found
end

-- The named tasks and all after them, as a set and in order.
local function downstream(run, named)
  local set, order, queue = {}, {}, {}
  local function add(task)
    if set[task] then return end
    set[task] = true
    order[#order + 1], queue[#queue + 1] = task, task
  end
  for _, task in ipairs(named) do add(task) end
  while queue[1] do
    for _, successor in ipairs(edges(run, table.remove(queue))) do add(successor) end
  end
  table.sort(order)
  return set, order
end

-- A failed map keeps its good children when nothing it needs is done again; else it is expanded anew. Answers the others.
local function reset_families(run, order, again)
  local upstream, children = {}, {}
  for _, task in ipairs(again) do upstream[task] = true end
  for _, task in ipairs(order) do
    for _, successor in ipairs(edges(run, task)) do upstream[successor] = true end
  end
  for _, parent in ipairs(order) do
    local family = live.children(run, parent)
    if family and (upstream[parent] or live.task(run, parent).state == SUCCEEDED) then
      live.touch(run, parent).family = 0
    elseif family then
      local bad = 0
      for task = family.first, family.first + family.count - 1 do
        local r = live.task(run, task)
        if r.state ~= SUCCEEDED and not live.has(r, MET) then
          bad = bad + 1
          children[#children + 1] = task
        end
      end
      family.ended, family.released, family.out = family.count - bad, 0, 0
      family.failed, family.cancelled, family.skipped = false, false, false
    end
  end
  return children
end

local function count_needs(run, set, order)
  for _, task in ipairs(order) do live.touch(run, task).gone = 0 end
  for task = 0, run.size - 1 do
    local r = live.task(run, task)
    if r.state >= SUCCEEDED then
      local met = live.met(run, task)
      for _, successor in ipairs(edges(run, task)) do
        if set[successor] then
          local s = live.touch(run, successor)
          s.gone = s.gone + 1
          if not met then s.unmet = s.unmet + 1 end
        end
      end
      if r.state == FAILED and live.spec(run, task).policy <= POLICY_CANCEL then run.failing = true end
    end
  end
end

return commands.apply(args.items, function(run, _, number, given)
  if run.state < RUN_SUCCEEDED then return WRONG_STATE end
  if state.live + run.total > MAX_TASKS then return FULL end
  local named = given[1] and given or did_not_succeed(run)
  local good = named[1] ~= nil
  for _, task in ipairs(named) do good = good and task >= 0 and task < run.size end
  if not good then
    if run.ended_n == 0 then ends.tell(run) end  -- it was loaded for this retry alone
    return WRONG_STATE
  end
  local set, order = downstream(run, named)
  local children = reset_families(run, order, given)
  local all = {}
  for at, task in ipairs(order) do all[at] = task end
  for _, task in ipairs(children) do all[#all + 1] = task end
  state.live = state.live + run.total
  run.state, run.reason, run.failing = RUN_RUNNING, "", false
  run.unfinished = run.unfinished + #all
  live.count(run, 1)
  state.emit("reset", run, {tasks = all, command = number})
  for _, task in ipairs(all) do
    local r = live.touch(run, task)
    live.move(run, r, WAITING)
    live.clear(r, MET)
    r.unmet, r.failures, r.lost = 0, 0, 0
    state.hash(run.rest)["resolved " .. task] = false
  end
  count_needs(run, set, order)
  for _, task in ipairs(order) do
    if live.task(run, task).gone == live.spec(run, task).needs then ready.make(run, task) end
  end
  return OK
end)
