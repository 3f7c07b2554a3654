-- Gives locks back, or gives up waiting for them.
-- keys: epoch engine leases asks claims holders waiters line run tasks spec queues ready nodes inbox
-- args: items packed
-- item: epoch n key
-- answers: ok superseded
-- events: none
-- lease: the task's
-- include: ends

local answers = {}
for at, item in ipairs(args.items) do
  local lease = item[1] == EPOCH and leases.get(item[2])
  if lease then leases.drop_ask(lease, item[3]) end
  answers[at] = lease and OK or SUPERSEDED
end
return state.finish(answers)
