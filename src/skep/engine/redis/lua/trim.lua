-- Moves the mark; forgets events up to `keep` before it, and some of the runs that ended before it some time ago.
-- keys: epoch engine events ended run spec tasks edges roots due deadlines rest held
-- args: mark number, keep number
-- answers: none
-- events: none
-- lease: none
-- include: ready
-- time: stands

local up_to = math.min(args.mark, state.n)
if up_to > state.mark then
  state.mark = up_to
  state.stir("mark")
end
local count = state.mark - args.keep - state.trimmed
if count > 0 then
  redis.call("LTRIM", P .. "events", count, -1)
  state.trimmed = state.trimmed + count
end
local gone = 0
for _, packed in ipairs(redis.call("LRANGE", P .. "ended", 0, FORGET_LIMIT - 1)) do
  local ended = cmsgpack.unpack(packed)
  if ended[1] > state.mark or ended[2] > state.now then break end
  gone = gone + 1
  local run = live.run(ended[3])
  if run and run.ended_n == ended[1] and run.state >= RUN_SUCCEEDED then live.drop(run) end
end
if gone > 0 then redis.call("LTRIM", P .. "ended", gone, -1) end
return state.finish(true)
