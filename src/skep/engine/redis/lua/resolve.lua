-- Ends the wait of parked tasks; the first one wins.
-- keys: epoch engine events run tasks spec edges rest queues ready delays sweeping
-- args: items packed
-- item: run task by state reason output error retry_in_ms attempt; `output`, `error` are numbers of payloads
-- answers: ok not_found wrong_state
-- events: succeeded failed cancelled retrying ready ended
-- lease: none
-- include: tasks

local function resolve(item)
  local run, task, by, to = live.run(item[1]), item[2], item[3], item[4]
  if not run or not run.opened or not live.known(run, task) then return NOT_FOUND end
  local name = "resolved " .. task
  local packed = state.field(run.rest, name)
  local names = packed and cmsgpack.unpack(packed) or {}
  for _, other in ipairs(names) do
    if other == by then return OK end
  end
  local r = live.task(run, task)
  if not live.has(r, IN_PARKED) or (item[9] ~= 0 and item[9] ~= r.attempts) then return WRONG_STATE end
  if to ~= READY and to ~= SUCCEEDED and to ~= FAILED and to ~= CANCELLED then return WRONG_STATE end
  live.touch(run, task)
  names[#names + 1] = by
  state.hash(run.rest)[name] = cmsgpack.pack(names)
  if to == READY then
    ready.make(run, task)
    return OK
  end
  local said = {task = task, attempt = r.attempts, reason = item[5], error = payload(item[7])}
  if to == FAILED then
    r.failures = r.failures + 1
    if item[8] >= 0 and run.state ~= RUN_CANCELLING then
      local due = item[8] > 0 and state.now + item[8] or 0
      said.due_ms = due
      state.emit("retrying", run, said)
      tasks.come_back(run, task, due)
      return OK
    end
  end
  said.output = payload(item[6])
  state.emit(ends.KINDS[to], run, said)
  ends.task(run, task, to)
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = resolve(item) end
state.flush()
return state.finish(answers)
