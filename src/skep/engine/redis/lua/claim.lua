-- Takes locks for running tasks, or puts them in the lists.
-- keys: epoch engine run tasks rest leases asks claims holders waiters line limits
-- args: items packed
-- item: run task epoch n key units cap hold_ms wait
-- answers: ok waiting wrong_state not_found superseded
-- events: none
-- lease: the task's
-- include: ends

local function claim(item)
  local run, n, key, units, cap = live.run(item[1]), item[4], item[5], item[6], item[7]
  local lease = leases.of(run, item[2], item[3], n)
  if not lease then return run and SUPERSEDED or NOT_FOUND end
  local held = claims.held(key, n) or 0
  if held > 0 then return held >= math.min(units, cap) and OK or WRONG_STATE end  -- two that grow a shared lock would wait for ever
  if leases.ask(lease, key) then return WAITING_ANSWER end
  local wanted = {key, units, cap}
  if not claims.blocked({wanted}, 0) then
    leases.hold_ask(lease, wanted, item[8])
    return OK
  end
  if item[9] then
    local number = claims.next_number()
    leases.set_ask(lease, key, number, 0)
    claims.wait(wanted, number, "lock", "", n, item[8])
  end
  return WAITING_ANSWER
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = claim(item) end
return state.finish(answers)
