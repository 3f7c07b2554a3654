-- Attempts succeeded.
-- keys: epoch engine events run tasks spec edges rest nodes running leases held_by claims holders waiters line queues ready sweeping
-- args: items packed
-- item: run task epoch n output ran_ms; `output` is the number of a payload
-- answers: ok not_found superseded
-- events: succeeded ready ended
-- lease: the task's
-- include: tasks

local told = state.told
local EPOCH_TOLD = told.token_epoch .. int(EPOCH)

local function complete(item)
  local run, task, n = live.run(item[1]), item[2], item[4]
  local lease = leases.of(run, task, item[3], n)
  if not lease then return leases.late(run, task, item[3], n, BY_COMPLETE) end
  leases.finish(lease, BY_COMPLETE)
  local output, ran = payload(item[5]), item[6]
  state.tell("succeeded", run, output and 7 or 6, told.task .. int(task) .. told.attempt .. int(lease.attempt) .. told.token .. int(n)
               .. EPOCH_TOLD .. told.started_ms .. int(state.now - ran) .. told.ran_ms .. int(ran)
               .. (output and told.output .. output or ""))
  ends.task(run, task, SUCCEEDED)
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = complete(item) end
state.flush()
return state.finish(answers)
