-- Who is there and what may start, for those who decide. Changes nothing that anyone can see.
-- include: ready

look = {}

local function seen(who)
  local id, task = string.sub(who, 1, -8), tonumber(string.sub(who, -6))
  local run = live.run(id)
  local r = live.task(run, task)
  local found = {id, task, r.version, run.failing, r.unmet, r.attempts, r.failures, -1, -1, r.score}
  if task >= run.size then
    local family = live.siblings(run, task)
    found[5], found[8], found[9] = live.task(run, family.parent).unmet, family.parent, task - family.first
  end
  return found
end

-- Up to `limit` tasks of each class, best first, packed: namespace, class, tasks, slots that the namespace holds.
function look.ready(limit)
  local groups = {}
  for _, name in ipairs(redis.call("ZRANGE", P .. "queues", 0, -1)) do
    local tasks = redis.call("ZRANGE", P .. "ready:" .. name, 0, limit - 1)
    if tasks[1] then
      for at, who in ipairs(tasks) do tasks[at] = seen(who) end
      local space = string.find(name, " ", 1, true)
      local namespace = string.sub(name, 1, space - 1)
      local running = tonumber(state.field("running", namespace) or 0)
      groups[#groups + 1] = cmsgpack.pack({namespace, string.sub(name, space + 1), tasks, running})
    else
      redis.call("ZREM", P .. "queues", name)
    end
  end
  return groups
end

-- All nodes in the order in which they came, packed: info, free, leases, draining, beat_ms, coming, server.
function look.nodes()
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
  return found
end

-- Both, packed, where little is ready. Where nothing is, nobody asks for nodes.
function look.both()
  local groups = look.ready(SMALL_LOOK)
  return "\146" .. packed_list(groups[1] and look.nodes() or {}) .. packed_list(groups)
end
