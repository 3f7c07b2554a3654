-- Recorded commands: applied only when their number is above the last one applied to their run.
-- include: ends

commands = {}

-- Applies `apply(run, reason, number, tasks)` to each {run, number, reason, tasks}, and answers.
function commands.apply(items, apply)
  local answers = {}
  for at, item in ipairs(items) do
    local run, number = live.run(item[1]), item[2]
    if not run or not run.opened then
      answers[at] = NOT_FOUND
    elseif number <= run.command then
      answers[at] = OK
    else
      answers[at] = apply(run, item[3], number, item[4])
      if answers[at] == OK then run.command = number end
    end
  end
  state.flush()
  return state.finish(answers)
end
