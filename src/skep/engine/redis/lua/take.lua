-- What a node was given above number `after`; everything up to `after` is forgotten. Nothing when there is no such node.
-- keys: epoch engine nodes inbox
-- args: node text, incarnation number, after number, limit number
-- answers: entries: number, number of its token, what it is
-- events: none
-- lease: none
-- include: nodes
-- time: stands

local found = nodes.get(args.node)
if not found or found.incarnation ~= args.incarnation then return state.finish(false) end
if found.coming then
  found.coming = false
  state.stir("ready")
end
local key = P .. "inbox:" .. args.node
local length = redis.call("LLEN", key)
local first = found.number - length + 1
if length > 0 and args.after >= first then redis.call("LTRIM", key, args.after - first + 1, -1) end
return state.finish(nil, redis.call("LRANGE", key, 0, args.limit - 1))
