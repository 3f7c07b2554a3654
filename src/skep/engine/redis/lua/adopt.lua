-- Leases of an earlier engine go on under new tokens; what they take and claim is taken whether it fits or not.
-- keys: epoch engine events run tasks spec rest nodes running inbox leases held_by asks claims holders limits queues ready
-- args: items packed
-- item: run task attempt node epoch n takes claims locks ended parent child; locks: key units left_ms each
-- answers: ok not_found superseded, with the number of the new token
-- events: adopted returned ready skipped
-- lease: of an earlier engine
-- include: ends

-- Whether it is the attempt that was running, or the one after the last of which the record knows.
local function is_next(run, r, item)
  local task, attempt, parent, child = r.task, item[3], -1, -1
  if task >= run.size then
    local family = live.siblings(run, task)
    parent, child = family.parent, task - family.first
  end
  if parent ~= item[11] or child ~= item[12] then return false end
  if r.state ~= READY and r.state ~= DELAYED and not live.may_start(run, task) then return false end
  return attempt == r.attempts + 1 or (attempt == r.attempts and live.has(r, ORPHAN))
end

local function hold_again(lease, node, item)
  nodes.take_anyway(node, item[7])
  claims.take(item[8], lease.n)
  for _, lock in ipairs(item[9]) do leases.hold_ask(lease, {lock[1], lock[2], EXCLUSIVE}, lock[3]) end
  if not item[10] then
    local old = "\146" .. int(item[5]) .. int(item[6])
    nodes.give(node, lease.n, "\147" .. text("Adopted") .. old .. nodes.token(lease.n))
  end
end

local function adopt(item)
  local run, task, node = live.run(item[1]), item[2], nodes.get(item[4])
  if not run or not run.opened or not node or not live.known(run, task) then return {NOT_FOUND, 0} end
  local old = string.format("adopted %.0f-%.0f", item[5], item[6])
  local known = state.field(run.rest, old)
  if known then return {OK, tonumber(known)} end
  local r = live.task(run, task)
  if not is_next(run, r, item) then return {SUPERSEDED, 0} end
  if live.may_start(run, task) then
    ready.make(run, task)
    state.flush()
  end
  live.touch(run, task)
  if item[3] == r.attempts then
    live.orphan(run, r, false)
  elseif live.has(r, ORPHAN) then
    ends.lapse(run, r)
  end
  ready.leave_lists(run, r)
  ends.drop_children(run, task)
  local n = state.emit("adopted", run, {task = task, attempt = item[3], token = item[6], token_epoch = item[5], node = node.id})
  live.move(run, r, RUNNING)
  r.version, r.attempts, r.token, r.how = r.version + 1, item[3], n, 0
  state.hash(run.rest)[old] = string.format("%.0f", n)
  hold_again(leases.make(n, run, r, item[3], node, item[7], item[8], item[10]), node, item)
  return {OK, n}
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = adopt(item) end
state.flush()
return state.finish(answers)
