-- Ends what is over: silent nodes, deadlines, run timeouts, locks held too long.
-- keys: epoch engine events beats nodes running infos held_by inbox leases asks limits deadlines run tasks spec edges rest claims holders waiters line
-- args: silent_ms number, max_lost number
-- answers: moved more next_ms
-- events: lost returned failed cancelled cancelling ready ended
-- lease: none
-- include: ends

-- The time of one task is over.
local function deadline(run, task)
  if not run or run.state >= RUN_SUCCEEDED then return 0 end
  local r = live.task(run, task)
  if r.state >= SUCCEEDED or (r.state == PARKED and live.children(run, task)) then
    return 0  -- the children of a map have the same deadline, and end it
  end
  if r.state == RUNNING then
    nodes.stop(nodes.get(leases.get(r.token).node), r.token, "deadline")
    return 1
  end
  if r.state == READY then state.flush() end  -- it may have become ready in this very call
  local attempt = live.left_attempt(r) and r.attempts or nil
  state.emit("failed", run, {task = task, attempt = attempt, reason = "deadline"})
  ends.task(run, task, FAILED)
  return 1
end

-- Some tasks of one deadline: those of a list, or the children of a map. Goes on where it had to stop.
local function deadlines(entry, due, what)
  local run, kind, at, count, list, first = live.run(what[2]), what[1], what[4], 0, "", 0
  if not run or run.state >= RUN_SUCCEEDED then
    state.budget = state.budget - 1
    return 0
  end
  if kind == "family" then
    local family = live.family(run, what[3])
    count, first = family.count, family.first
  else
    list = redis.call("HGET", run.key .. ":limits", string.format("%.0f", what[3])) or ""
    count = #list / 4
  end
  local moved = 0
  while at < count and state.budget > 0 do
    moved = moved + deadline(run, kind == "family" and first + at or struct.unpack("<I4", list, at * 4 + 1))
    at, state.budget = at + 1, state.budget - 1
  end
  if at < count then
    redis.call("ZADD", P .. "limits", due, string.sub(entry, 1, 16) .. cmsgpack.pack({kind, what[2], what[3], at}))
  end
  return moved
end

local function over(due, what)
  local kind, name, n = what[1], what[2], what[4]
  if kind == "claim" then
    claims.free(name, n)
    return 1
  end
  if kind == "withheld" then
    if due < state.withheld then return 0 end  -- it was made longer
    claims.give_again()
    return 1
  end
  if kind == "lock" then
    local lease = leases.get(n)
    local asked = lease and leases.ask(lease, name)
    if not asked or asked[2] ~= 0 or asked[3] ~= due then return 0 end  -- given back, or taken again since
    leases.drop_ask(lease, name)
    return 1
  end
  local run = live.run(name)
  if kind == "deadline" then return deadline(run, what[3]) end
  if not run or run.state >= RUN_SUCCEEDED then return 0 end
  ends.begin_cancel(run, "timeout", 0)
  return 1
end

local moved = 0
state.max_lost = args.max_lost
local silent = {}
for _, id in ipairs(redis.call("ZRANGEBYSCORE", P .. "beats", "-inf", "(" .. state.now - args.silent_ms)) do silent[#silent + 1] = nodes.get(id) end
table.sort(silent, function(a, b) return a.order < b.order end)
for _, node in ipairs(silent) do
  ends.leave(node, "lost")
  moved = moved + 1
end
while state.budget > 0 do
  local entry, due, what = state.due("limits")
  if not entry then break end
  redis.call("ZREM", P .. "limits", entry)
  if what[1] == "deadlines" or what[1] == "family" then
    moved = moved + deadlines(entry, due, what)
  else
    moved, state.budget = moved + over(due, what), state.budget - 1
  end
end
state.flush()
local next_ms = state.next_due("limits")
return state.finish({moved, next_ms > 0 and next_ms <= state.now, next_ms})
