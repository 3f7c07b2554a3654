-- Lets runs start tasks again.
-- keys: epoch engine events run tasks spec held queues ready sweeping
-- args: items packed
-- item: run number reason tasks
-- answers: ok not_found wrong_state
-- events: resumed
-- lease: none
-- include: commands

return commands.apply(args.items, function(run, reason, number)
  if run.state >= RUN_SUCCEEDED then return WRONG_STATE end
  if run.paused then
    run.paused = false
    state.emit("resumed", run, {reason = reason, command = number})
    if run.held > 0 then ends.let_go(run) end
  end
  return OK
end)
