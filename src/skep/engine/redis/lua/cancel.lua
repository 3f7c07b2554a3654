-- Ends runs: what waits is swept, what runs is told to stop; a task that completes first keeps its outcome.
-- keys: epoch engine events run tasks spec rest sweeping nodes inbox claims
-- args: items packed
-- item: run number reason tasks
-- answers: ok not_found wrong_state
-- events: cancelling cancelled ended
-- lease: none
-- include: commands

return commands.apply(args.items, function(run, reason, number)
  if run.state >= RUN_SUCCEEDED then return WRONG_STATE end
  ends.begin_cancel(run, reason ~= "" and reason or "cancelled", number)
  ends.advance(run)
  return OK
end)
