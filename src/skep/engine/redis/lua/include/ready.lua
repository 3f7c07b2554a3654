-- What may start: one sorted set per namespace and requirement class; score as the router ordered it, then run and index.
-- include: live nodes claims

ready = {}

local function change(run, task, score)
  local name = live.spec_of(run, task).queue
  local changes = state.queues[name]
  if not changes then
    changes = {}
    state.queues[name] = changes
  end
  changes[run.id .. string.format(" %06d", task)] = score
  return name
end

-- Puts a ready task into its queue, under a new version and its old score.
function ready.enter(run, r)
  live.touch(run, r.task)
  r.version = r.version + 1
  local name = change(run, r.task, r.score)
  if not state.queue_known then state.queue_known = {} end
  if not state.queue_known[name] then
    state.queue_known[name] = true
    if not redis.call("ZSCORE", P .. "queues", name) then redis.call("ZADD", P .. "queues", state.next(), name) end
  end
  state.stir("ready")
end

-- It is offered no more.
function ready.leave(run, r) change(run, r.task, false) end

-- `told`: the event that ended its attempt has said so already.
function ready.make(run, task, told)
  local r = live.touch(run, task)
  live.move(run, r, READY)
  if run.parked > 0 then ready.unpark(run, r) end
  local spec = live.spec_of(run, task)
  r.score = state.now - spec.order
  if run.timed and spec.deadline > 0 and run.accepted + spec.deadline <= state.now then
    state.push("limits", state.now, "deadline", run.id, task)  -- it came back too late
  end
  if not told then
    local list = state.fresh[run]
    if not list then
      list = {}
      state.fresh[run] = list
      state.fresh_order[#state.fresh_order + 1] = run
    end
    list[#list + 1] = task
  end
  ready.enter(run, r)
end

function ready.unpark(run, r)
  if live.has(r, IN_PARKED) then
    live.clear(r, IN_PARKED)
    run.parked = run.parked - 1
  end
  live.rest(run)
end

-- The task waits for a person, a child run or an event.
function ready.park(run, r)
  live.move(run, r, PARKED)
  live.park(run, r)
  live.rest(run)
end

-- Puts a ready task aside until its run goes on.
function ready.hold(run, r)
  ready.leave(run, r)
  if not live.has(r, HELD) then
    live.set(r, HELD)
    run.held = run.held + 1
    redis.call("ZADD", run.key .. ":held", state.next(), r.task)
  end
end

-- Takes a task that ends, or is granted, off the lists in which it was put aside.
function ready.leave_lists(run, r)
  if live.has(r, HELD) then
    live.clear(r, HELD)
    run.held = run.held - 1
    redis.call("ZREM", run.key .. ":held", r.task)
  end
  if live.has(r, WAITER) then
    local number, key = ready.place(run, r)
    ready.forget(run, r)
    claims.leave(key, number)
  end
end

-- A waiting task's number and the claim in whose list it stands.
function ready.place(run, r)
  if not live.has(r, WAITER) then return 0, "" end
  local place = cmsgpack.unpack(state.field(run.rest, "waiter " .. r.task))
  return place[1], place[2]
end

function ready.wait(run, r, number, key)
  if not live.has(r, WAITER) then
    live.set(r, WAITER)
    run.waits = run.waits + 1
  end
  state.hash(run.rest)["waiter " .. r.task] = cmsgpack.pack({number, key})
end

function ready.forget(run, r)
  live.clear(r, WAITER)
  run.waits = run.waits - 1
  state.hash(run.rest)["waiter " .. r.task] = false
end

function ready.write()
  for name, changes in pairs(state.queues) do
    local enter, leave = {}, {}
    for who, score in pairs(changes) do
      if score then
        enter[#enter + 1], enter[#enter + 2] = score, who
      else
        leave[#leave + 1] = who
      end
    end
    many("ZREM", P .. "ready:" .. name, leave, 1000)
    many("ZADD", P .. "ready:" .. name, enter, 1000)
  end
end
