-- Applies decisions to tasks that are still ready at the version decided on. A grant takes all that it needs, or nothing.
-- keys: epoch engine events run tasks spec edges rest held nodes running inbox leases held_by claims holders waiters line queues ready limits
--       delays
-- args: items packed
-- item: kind run task version failing, and by kind: start node holds name call more · expand count · park reason data ·
--       settle state reason error output. `holds` (takes, claims, rates), `call`, `more`, `data`, `error`, `output` are numbers of payloads
-- answers: ok not_found wrong_state paused waiting cancelling changed no_fit full
-- events: granted skipped succeeded failed parked returned ready ended cancelling
-- lease: none
-- include: ends

local told = state.told
local EPOCH_TOLD = told.token_epoch .. int(EPOCH)
local START, EXPAND, PARK, SETTLE = 1, 2, 3, 4
local packed_holds = {}

-- What an attempt takes, claims and spends: {takes, claims, rates}.
local function held(number)
  local found = packed_holds[number]
  if not found then
    found = cmsgpack.unpack(ARGV[number])
    packed_holds[number] = found
  end
  return found
end

local GRANT = "\159" .. text("Grant")

-- Gives the attempt of an earlier engine up for lost. False: it was one too many, and the task has failed.
local function may_lapse(run, r)
  if r.lost + 1 < state.max_lost then
    ends.lapse(run, r)
    return true
  end
  live.touch(run, r.task)
  r.version = r.version + 1
  state.emit("failed", run, {task = r.task, attempt = r.attempts, reason = "node_lost"})
  ends.task(run, r.task, FAILED)
  return false
end

-- Whether all claims fit; if not, the task goes to the list of the first that does not.
local function claim_all(run, r, list, rates)
  local number, key = ready.place(run, r)
  local blocked, rate = claims.blocked(list, number), false
  if not blocked then
    blocked, rate = claims.blocked(rates, number, true), true
    if not blocked then return true end
  end
  if number == 0 then number = claims.next_number() end
  live.touch(run, r.task)
  ready.wait(run, r, number, blocked[1])
  r.version = r.version + 1
  ready.leave(run, r)
  claims.wait(blocked, number, "task", run.id, r.task, 0, rate)
  if key ~= "" and key ~= blocked[1] then claims.leave(key, number) end
  return false
end

local function start(run, r, item)
  local task = r.task
  live.touch(run, task)
  if run.paused then
    ready.leave_lists(run, r)  -- who is paused holds nobody back
    ready.hold(run, r)
    r.version = r.version + 1
    return PAUSED
  end
  local node, what = nodes.get(item[6]), held(item[7])
  local takes, list, rates = what[1], what[2], what[3]
  local bound = list[1] or rates[1]
  if not node or node.draining or node.coming or not nodes.take(node, takes) then return NO_FIT end
  if bound and not claim_all(run, r, list, rates) then
    nodes.give_back(node, takes)
    return WAITING_ANSWER
  end
  if live.has(r, ORPHAN) and not may_lapse(run, r) then
    nodes.give_back(node, takes)
    return OK
  end
  ends.drop_children(run, task)
  local attempt, n = r.attempts + 1, state.n + 1
  state.tell("granted", run, 5, told.task .. int(task) .. told.attempt .. int(attempt) .. told.token .. int(n) .. EPOCH_TOLD
               .. told.node .. text(node.id))
  live.move(run, r, RUNNING)
  r.attempts, r.token, r.version, r.how = attempt, n, r.version + 1, 0
  leases.make(n, run, r, attempt, node, takes, list, false)
  if bound then
    claims.take(list, n)
    claims.spend(rates)
    ready.leave_lists(run, r)
  end
  local parent, child = -1, -1
  if task >= run.size then
    local family = live.siblings(run, task)
    parent, child = family.parent, task - family.first
  end
  nodes.give(node, n, GRANT .. text(run.id) .. int(task) .. text(item[8]) .. int(attempt) .. nodes.token(n) .. payload(item[9])
             .. int(r.failures) .. int(parent) .. payload(item[10]) .. int(child))
  return OK
end

local function expand(run, r, count)
  local task = r.task
  if task >= run.size or count < 0 then return WRONG_STATE end
  local family, spec = live.children(run, task), live.spec(run, task)
  if not family or family.count ~= count then
    if run.total + count > MAX_TASKS or state.live + count > MAX_TASKS then return FULL end
    ends.drop_children(run, task)
    family = live.grow(run, task, run.total, count, spec.window)
    state.live = state.live + count
    run.total, run.unfinished = run.total + count, run.unfinished + count
    if run.total > SMALL_RUN then live.unfold(run) end
    run.counts[WAITING + 1] = run.counts[WAITING + 1] + count
    state.counts[WAITING + 1] = state.counts[WAITING + 1] + count
    if spec.deadline > 0 and count > 0 then
      state.push("limits", run.accepted + spec.deadline, "family", run.id, family.number, 0)
    end
  end
  live.touch(run, task)
  if live.has(r, ORPHAN) then ends.lapse(run, r) end
  ready.leave_lists(run, r)
  r.version = r.version + 1
  live.move(run, r, PARKED)
  state.emit("parked", run, {task = task, reason = "map", first = family.first, count = count})
  if family.ended == family.count then
    ends.join(run, family)
  else
    ends.release_children(run, family)
  end
  return OK
end

local function park(run, r, reason, data)
  live.touch(run, r.task)
  if live.has(r, ORPHAN) then ends.lapse(run, r) end
  ready.leave_lists(run, r)
  ends.drop_children(run, r.task)
  r.version, r.attempts = r.version + 1, r.attempts + 1
  state.emit("parked", run, {task = r.task, attempt = r.attempts, reason = reason, data = payload(data)})
  ready.park(run, r)
  return OK
end

local function settle(run, r, item)
  local task, ended, reason = r.task, item[6], item[7]
  if ended ~= SUCCEEDED and ended ~= FAILED and ended ~= SKIPPED then return WRONG_STATE end
  live.touch(run, task)
  if live.has(r, ORPHAN) then ends.lapse(run, r) end
  r.version = r.version + 1
  if ended == SKIPPED and reason == "when" then live.set(r, MET) end
  state.emit(ends.KINDS[ended], run, {task = task, reason = reason, error = payload(item[8]), output = payload(item[9])})
  live.move(run, r, ended)
  ends.drop_children(run, task)
  ends.task(run, task, ended)
  return OK
end

local function place(item)
  local kind, run, task, version = item[1], live.run(item[2]), item[3], item[4]
  if not run or not live.known(run, task) then return NOT_FOUND end
  local r = live.task(run, task)
  if r.version ~= version or r.state ~= READY then
    if r.version ~= version + 1 then return WRONG_STATE end
    if r.state ~= READY then return OK end
    return live.has(r, HELD) and PAUSED or WAITING_ANSWER
  end
  if run.state == RUN_CANCELLING then return CANCELLING end
  if kind == SETTLE then return settle(run, r, item) end
  if item[5] ~= run.failing then return CHANGED end
  if kind == START then return start(run, r, item) end
  if kind == EXPAND then return expand(run, r, item[6]) end
  return park(run, r, item[6], item[7])
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = place(item) end
state.flush()
return state.finish(answers)
