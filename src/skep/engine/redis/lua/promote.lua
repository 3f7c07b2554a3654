-- Makes due what is delayed, and advances one chunk of what larger verbs left over.
-- keys: epoch engine events delays sweeping run tasks spec edges roots rest queues ready nodes inbox claims waiters line
-- args:
-- answers: moved more next_ms
-- events: ready cancelled ended
-- lease: none
-- include: ends

local moved, stale = 0, 0
while state.budget > 0 and stale < LOOK_LIMIT do
  local entry, due, what = state.due("delays")
  if not entry then break end
  redis.call("ZREM", P .. "delays", entry)
  stale = stale + 1
  if what[1] == "rate" then
    local woken = claims.look_again(what[2], due, state.budget)
    state.budget, moved = state.budget - woken, moved + woken
  else
    local run = live.run(what[2])
    local r = run and live.task(run, what[3])
    if r and r.state == DELAYED and r.version == what[4] then
      ready.make(run, what[3])
      state.budget, moved, stale = state.budget - 1, moved + 1, stale - 1
    end
  end
end
for _, id in ipairs(redis.call("ZRANGE", P .. "sweeping", 0, RELEASE_LIMIT - 1)) do
  if state.budget <= 0 then break end
  local before = state.budget
  ends.advance(live.run(id))
  moved = moved + before - state.budget
end
state.flush()
local next_ms = state.next_due("delays")
local more = redis.call("ZCARD", P .. "sweeping") > 0 or (next_ms > 0 and next_ms <= state.now)
return state.finish({moved, more, next_ms})
