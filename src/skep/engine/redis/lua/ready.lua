-- Up to `limit` tasks of each class, best first, for `place` to decide on.
-- keys: epoch engine queues ready run tasks spec rest
-- args: limit number
-- answers: namespace, class, tasks: run task version failing unmet attempts failures parent child
-- events: none
-- lease: none
-- include: ready
-- time: stands

local function seen(who)
  local task = tonumber(string.sub(who, -6))
  local id = string.sub(who, 1, -8)
  local run = live.run(id)
  local r = live.task(run, task)
  local found = {id, task, r.version, run.failing, r.unmet, r.attempts, r.failures, -1, -1}
  if task >= run.size then
    local family = live.siblings(run, task)
    found[5], found[8], found[9] = live.task(run, family.parent).unmet, family.parent, task - family.first
  end
  return found
end

local groups = {}
for _, name in ipairs(redis.call("ZRANGE", P .. "queues", 0, -1)) do
  local best = redis.call("ZRANGE", P .. "ready:" .. name, 0, args.limit - 1)
  if best[1] then
    local tasks = {}
    for at, who in ipairs(best) do tasks[at] = seen(who) end
    local space = string.find(name, " ", 1, true)
    groups[#groups + 1] = {string.sub(name, 1, space - 1), string.sub(name, space + 1), tasks}
  else
    redis.call("ZREM", P .. "queues", name)
  end
end
return state.finish(groups)
