-- Tells nodes that leases they presented are theirs no more.
-- keys: epoch engine nodes inbox dismissed
-- args: items packed
-- item: node epoch n
-- answers: ok not_found
-- events: none
-- lease: none
-- include: nodes

local answers = {}
for at, item in ipairs(args.items) do
  local node = nodes.get(item[1])
  if node then
    local old = string.format("%.0f-%.0f", item[2], item[3])
    if redis.call("SADD", P .. "dismissed:" .. node.id, old) == 1 then
      local token = "\146" .. int(item[2]) .. int(item[3])
      nodes.give(node, item[2] == EPOCH and item[3] or 0, "\147" .. text("Stop") .. token .. text("superseded"))
    end
  end
  answers[at] = node and OK or NOT_FOUND
end
return state.finish(answers)
