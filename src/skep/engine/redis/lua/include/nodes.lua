-- Nodes, what of them is free, their inboxes; and leases: the right of one node to make one attempt.
-- nodes: id -> what changes; infos: id -> what it said of itself; held:<id>: numbers of its leases; inbox:<id>: entries, each
-- with its number and the number of its token. leases: n -> node, takes, claims; asks: n -> locks taken inside.
-- running: namespace -> slots that its attempts hold.
-- include: state

nodes, leases = {}, {}

function nodes.get(id)
  local node = state.nodes[id]
  if node ~= nil then return node or nil end
  local packed = redis.call("HGET", P .. "nodes", id)
  if not packed then
    state.nodes[id] = false
    return nil
  end
  local f = cmsgpack.unpack(packed)
  node = {id = id, incarnation = f[1], beats = f[2], coming = f[3], beat = f[4], draining = f[5], free = f[6], number = f[7],
          leases = f[8], order = f[9], server = f[10], packed = packed}
  state.nodes[id] = node
  return node
end

function nodes.make(id, incarnation, beats, coming, free)
  local node = {id = id, incarnation = incarnation, beats = beats, coming = coming, beat = state.now, draining = false, free = free,
                number = 0, leases = 0, order = state.next(), server = ""}
  state.nodes[id] = node
  if beats then redis.call("ZADD", P .. "beats", state.now, id) end
  return node
end

-- Takes all of what an attempt needs, or nothing and says false.
function nodes.take(node, takes)
  local free = node.free
  for at, take in ipairs(takes) do
    local left = (free[take[1]] or -1) - take[2]
    if left < 0 then
      for back = 1, at - 1 do free[takes[back][1]] = free[takes[back][1]] + takes[back][2] end
      return false
    end
    free[take[1]] = left
  end
  return true
end

-- What is in use is in use, though it be more than there is.
function nodes.take_anyway(node, takes)
  for _, take in ipairs(takes) do node.free[take[1]] = (node.free[take[1]] or 0) - take[2] end
end

function nodes.give_back(node, takes)
  for _, take in ipairs(takes) do node.free[take[1]] = node.free[take[1]] + take[2] end
end

-- Something for a node. `n`: of its token, 0 if that is of an earlier engine.
function nodes.give(node, n, entry)
  if node.gone then return end
  node.number = node.number + 1
  local inbox = state.inboxes[node.id]
  if not inbox then
    inbox = {}
    state.inboxes[node.id] = inbox
  end
  inbox[#inbox + 1] = "\147" .. int(node.number) .. int(n) .. entry
  state.stir("node:" .. node.id)
end

local TOKEN = "\146" .. int(EPOCH)
local function token(n) return TOKEN .. int(n) end
nodes.token = token

function nodes.stop(node, n, reason) nodes.give(node, n, "\147" .. text("Stop") .. token(n) .. text(reason)) end

-- Numbers of tokens in the inbox of a node above entry `seen`.
function nodes.unseen(node, seen)
  local found, pending = {}, state.inboxes[node.id] or {}
  local kept = redis.call("LRANGE", P .. "inbox:" .. node.id, 0, -1)
  for _, list in ipairs({kept, pending}) do
    for _, entry in ipairs(list) do
      local _, number, n = cmsgpack.unpack_limit(entry, 2, 1)
      if number > seen then found[n] = true end
    end
  end
  return found
end

-- Numbers of its leases, lowest first.
function nodes.leases(node)
  local found, all = {}, {}
  for _, n in ipairs(redis.call("SMEMBERS", P .. "held:" .. node.id)) do found[tonumber(n)] = true end
  for n, held in pairs(state.held[node.id] or {}) do found[n] = held or nil end
  for n in pairs(found) do all[#all + 1] = n end
  table.sort(all)
  return all
end

local function hold(node, n, on)
  node.leases = node.leases + (on and 1 or -1)
  local held = state.held[node.id]
  if not held then
    held = {}
    state.held[node.id] = held
  end
  held[n] = on
end

function nodes.forget(node)
  local id = node.id
  redis.call("ZREM", P .. "beats", id)
  redis.call("HDEL", P .. "nodes", id)
  state.hash("infos")[id] = false
  redis.call("UNLINK", P .. "inbox:" .. id, P .. "held:" .. id, P .. "dismissed:" .. id)
  state.nodes[id], state.inboxes[id], state.held[id] = false, nil, nil
end

-- What a lease holds, packed once for all that hold the same.
local held_by = {}
local function holding(lease)
  local plain = not lease.ended and not lease.asked
  local known = plain and held_by[lease.takes]
  if known and known[1] == lease.node and known[2] == lease.claims then return known[3] end
  local packed = cmsgpack.pack({lease.node, lease.takes, lease.claims, lease.ended, lease.asked})
  if plain then held_by[lease.takes] = {lease.node, lease.claims, packed} end
  return packed
end

local slots_of, moved = {}, {}  -- slots by list of takes; by namespace, how many more it holds than before this verb

function nodes.write()
  for id, node in pairs(state.nodes) do
    if node then
      local packed = cmsgpack.pack({
        node.incarnation, node.beats, node.coming, node.beat, node.draining, node.free, node.number, node.leases, node.order,
        node.server,
      })
      if packed ~= node.packed then state.hash("nodes")[id] = packed end
    end
  end
  for id, list in pairs(state.inboxes) do many("RPUSH", P .. "inbox:" .. id, list, 1000) end
  for id, changes in pairs(state.held) do
    local now, gone = {}, {}
    for n, held in pairs(changes) do
      if held then now[#now + 1] = n else gone[#gone + 1] = n end
    end
    many("SADD", P .. "held:" .. id, now, 1000)
    many("SREM", P .. "held:" .. id, gone, 1000)
  end
  for namespace, slots in pairs(moved) do
    if slots ~= 0 then
      local held = tonumber(state.field("running", namespace) or 0) + slots
      state.hash("running")[namespace] = held ~= 0 and held
    end
  end
  for n, lease in pairs(state.leases) do
    if lease == false then
      state.hash("leases")[n] = false
    elseif lease.changed then
      state.hash("leases")[n] = struct.pack("<I4I4B", lease.task, lease.attempt, #lease.run) .. lease.run .. holding(lease)
    end
  end
end

-- Leases

local held_so = {}

function leases.get(n)
  local lease = state.leases[n]
  if lease ~= nil then return lease or nil end
  local packed = redis.call("HGET", P .. "leases", n)
  if not packed then
    state.leases[n] = false
    return nil
  end
  local task, attempt, length = struct.unpack("<I4I4B", packed)
  local what = string.sub(packed, 10 + length)
  local f = held_so[what]  -- most leases of a node hold the same
  if not f then
    f = cmsgpack.unpack(what)
    held_so[what] = f
  end
  lease = {n = n, run = string.sub(packed, 10, 9 + length), task = task, attempt = attempt, node = f[1], takes = f[2], claims = f[3],
           ended = f[4], asked = f[5]}
  state.leases[n] = lease
  return lease
end

-- Counts slots into what a namespace holds, or out of it.
local function count(run, takes, sign)
  local slots = slots_of[takes]
  if not slots then
    slots = 0
    for _, take in ipairs(takes) do
      if take[1] == "slots" then slots = slots + take[2] end
    end
    slots_of[takes] = slots
  end
  moved[run.namespace] = (moved[run.namespace] or 0) + sign * slots
end

function leases.make(n, run, r, attempt, node, takes, list, ended)
  local lease = {n = n, run = run.id, task = r.task, attempt = attempt, node = node.id, takes = takes, claims = list, ended = ended,
                 asked = false, changed = true}
  state.leases[n] = lease
  hold(node, n, true)
  count(run, takes, 1)
  return lease
end

-- The live lease that the token names, if it is that task's.
function leases.of(run, task, epoch, n)
  if not run or epoch ~= EPOCH or not live.known(run, task) then return nil end
  local r = live.task(run, task)
  if r.state ~= RUNNING or r.token ~= n then return nil end
  return leases.get(n)
end

-- The answer to who has no such lease: whether the task's last one was this and ended so, then it is a repeat.
function leases.late(run, task, epoch, n, how)
  if not run then return NOT_FOUND end
  if epoch ~= EPOCH or not live.known(run, task) then return SUPERSEDED end
  local r = live.task(run, task)
  return r.token == n and r.how == how and OK or SUPERSEDED
end

-- Gives back all that the lease held, in one step.
function leases.finish(lease, how)
  state.leases[lease.n] = false
  local node, run = nodes.get(lease.node), live.run(lease.run)
  hold(node, lease.n, false)
  nodes.give_back(node, lease.takes)
  count(run, lease.takes, -1)
  live.touch(run, lease.task).how = how
  state.stir("ready")
  for _, claim in ipairs(lease.claims) do claims.free(claim[1], lease.n) end
  if lease.asked then
    for _, asked in ipairs(leases.asks(lease)) do leases.drop_ask(lease, asked[1]) end
  end
end

-- Locks taken, or waited for, inside the task: {key, number in the line or 0, due} each, in order.
function leases.asks(lease)
  local packed = lease.asked and state.field("asks", lease.n)
  return packed and cmsgpack.unpack(packed) or {}
end

function leases.keep_asks(lease, list)
  state.hash("asks")[lease.n] = list[1] and cmsgpack.pack(list) or false
  if not lease.asked and list[1] then lease.asked, lease.changed = true, true end
end

function leases.ask(lease, key)
  for _, asked in ipairs(leases.asks(lease)) do
    if asked[1] == key then return asked end
  end
  return nil
end

function leases.set_ask(lease, key, number, due)
  local list, new = leases.asks(lease), {key, number, due}
  for at, asked in ipairs(list) do
    if asked[1] == key then
      list[at], new = new, nil
      break
    end
  end
  list[#list + 1] = new
  leases.keep_asks(lease, list)
end

-- Frees a lock taken inside a task, or gives up waiting for it.
function leases.drop_ask(lease, key)
  local list, kept, found = leases.asks(lease), {}, nil
  for _, asked in ipairs(list) do
    if asked[1] == key then found = asked else kept[#kept + 1] = asked end
  end
  if not found then return end
  leases.keep_asks(lease, kept)
  if found[2] > 0 then claims.leave(key, found[2]) else claims.free(key, lease.n) end
end

-- The lock is the lease's, for so long at the most.
function leases.hold_ask(lease, claim, hold_ms)
  local due = state.now + hold_ms
  claims.take({claim}, lease.n)
  leases.set_ask(lease, claim[1], 0, due)
  state.push("limits", due, "lock", claim[1], lease.task, lease.n)
end

function leases.grant_ask(n, claim, number, hold_ms)
  local lease = leases.get(n)
  claims.served(claim[1], number)
  leases.hold_ask(lease, claim, hold_ms)
  nodes.give(nodes.get(lease.node), n, "\147" .. text("LockGrant") .. token(n) .. text(claim[1]))
end
