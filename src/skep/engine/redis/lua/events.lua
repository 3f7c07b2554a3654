-- Events above number `after`, in order.
-- keys: epoch engine events
-- args: after number, limit number
-- answers: events
-- events: none
-- lease: none
-- include: state
-- time: stands

local first = math.max(args.after - state.trimmed, 0)
return state.finish(nil, redis.call("LRANGE", P .. "events", first, first + args.limit - 1))
