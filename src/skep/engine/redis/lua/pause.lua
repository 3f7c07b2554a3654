-- Stops grants of runs; what runs goes on.
-- keys: epoch engine events run
-- args: items packed
-- item: run number reason tasks
-- answers: ok not_found wrong_state
-- events: paused
-- lease: none
-- include: commands

return commands.apply(args.items, function(run, reason, number)
  if run.state ~= RUN_RUNNING then return WRONG_STATE end
  if not run.paused then
    run.paused = true
    state.emit("paused", run, {reason = reason, command = number})
  end
  return OK
end)
