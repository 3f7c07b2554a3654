-- All nodes.
-- keys: epoch engine nodes infos
-- args:
-- answers: info free leases draining beat_ms coming server
-- events: none
-- lease: none
-- include: nodes
-- time: stands

local infos, all, found = redis.call("HGETALL", P .. "infos"), {}, {}
for at = 1, #infos, 2 do
  local node = nodes.get(infos[at])
  node.info = infos[at + 1]
  all[#all + 1] = node
end
table.sort(all, function(a, b) return a.order < b.order end)
for at, n in ipairs(all) do
  found[at] = "\151" .. n.info .. cmsgpack.pack(n.free, n.leases, n.draining, n.beat, n.coming, n.server)
end
return state.finish(nil, found)
