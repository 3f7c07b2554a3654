-- For those tasks of one run that wait for a claim, where they stand and who has it; nothing when there is no such run.
-- keys: epoch engine run tasks rest leases asks claims holders waiters line
-- args: run text, tasks packed
-- answers: task key units cap used ahead waiters due_ms inside withheld holders (units run task node)
-- events: none
-- lease: none
-- include: ready
-- time: stands

local found, known = {}, {}

local function holders(key)
  if known[key] then return known[key] end
  local all = {}
  for at, holder in ipairs(claims.oldest(key)) do
    local lease = leases.get(holder[1])
    all[at] = lease and {holder[2], lease.run, lease.task, lease.node} or {holder[2], "", -1, ""}
  end
  known[key] = all
  return all
end

local function line(task, key, number, inside)
  local units, cap, used, ahead, waiters, due = claims.stands(key, number)
  if units then
    local withheld = state.withholding and due == 0
    found[#found + 1] = {task, key, units, cap, used, ahead, waiters, due, inside, withheld, due == 0 and holders(key) or {}}
  end
end

local live_run = live.run(args.run)
if not live_run then return state.finish(false) end
for _, task in ipairs(args.tasks) do
  local r = live.task(live_run, task)
  if r.state == READY then
    local number, key = ready.place(live_run, r)
    if number > 0 then line(task, key, number, false) end
  elseif r.state == RUNNING then
    for _, asked in ipairs(leases.asks(leases.get(r.token))) do
      if asked[2] > 0 then line(task, asked[1], asked[2], true) end
    end
  end
end
return state.finish(found)
