-- Runs: a head, and fixed-width records by task index, read in blocks and written back in stretches.
-- A run of a few tasks has all of that in its head. spec: what never changes (base tasks only). tasks: what does; nothing but zeros means untouched, and takes no room at the end.
-- Heads and records are lists; the names of their places stand here, and the loader puts the places for the names:
-- head: namespace names accepted timeout size total timed state reason failing loaded opened restored retried command paused
--       unfinished resting ended_n parked orphans held waits failed counts cursors firsts counted roots
--       small own_spec own_edges own_tasks
-- record: state how flags gone unmet version attempts failures lost token score family task
-- edges: who needs whom. rest: what few runs have (families, waiters, who resolved what).
-- include: state

live = {}
local SPEC, SPEC_SIZE = "<i8i8I4I4I4I4I2B", 35
local RECORD, RECORD_SIZE = "<BBBI4I4I4I4I4I2I8i8I4", 45
local BLOCK = 64
local MET, IN_PARKED, ORPHAN, HELD, WAITER = 1, 2, 4, 8, 16  -- bits of `flags`

local function attach(id, head, packed)
  local run = {id = id, h = head, packed = packed, key = P .. "run:" .. id, rest = "run:" .. id .. ":rest", told = false,
               tasks = {}, blocks = {}, dirty = {}, specs = {}, spec_blocks = {}, families = {}}
  state.runs[id] = run
  return run
end

-- A run, or nil.
function live.run(id)
  local run = state.runs[id]
  if run ~= nil then return run or nil end
  local packed = redis.call("GET", P .. "run:" .. id)
  if not packed then
    state.runs[id] = false
    return nil
  end
  return attach(id, cmsgpack.unpack(packed), packed)
end

function live.make(item, total)
  local run = attach(item[1], {}, false)
  run.namespace, run.names, run.accepted, run.timeout, run.size, run.total = item[2], item[3], item[4], item[5], item[6], total
  run.timed, run.state, run.reason = item[7], item[10] ~= "" and RUN_CANCELLING or RUN_RUNNING, item[10]
  run.failing, run.loaded, run.opened, run.restored, run.retried = false, 0, false, false, item[11]
  run.command, run.paused, run.unfinished, run.resting, run.ended_n = item[8], item[9], total, false, 0
  run.parked, run.orphans, run.held, run.waits, run.failed = 0, 0, 0, 0, 0
  run.small, run.own_spec, run.own_edges, run.own_tasks = item[13] == total and total <= SMALL_RUN, "", "", ""
  run.counts, run.cursors, run.firsts, run.counted, run.roots = {total, 0, 0, 0, 0, 0, 0, 0, 0}, {}, {}, false, 0
  return run
end

-- Forgets a run that ended.
function live.drop(run)
  local id, small = run.id, run.small
  state.runs[id] = false
  state.hashes["run:" .. id .. ":rest"] = nil
  local key = P .. "run:" .. id
  redis.call("UNLINK", key, key .. ":rest", key .. ":due", key .. ":held", key .. ":limits")
  if not small then redis.call("UNLINK", key .. ":spec", key .. ":tasks", key .. ":edges", key .. ":roots") end
end

function live.known(run, task) return task >= 0 and task < run.total end

-- A task's record, to read and to change; whoever changes it calls `live.touch`.
function live.task(run, task)
  local r = run.tasks[task]
  if r then return r end
  local number = math.floor(task / BLOCK)
  local block = run.blocks[number]
  if not block then
    local from = number * BLOCK * RECORD_SIZE
    block = run.small and run.own_tasks or redis.call("GETRANGE", run.key .. ":tasks", from, from + BLOCK * RECORD_SIZE - 1)
    run.blocks[number] = block
  end
  local at = (task - number * BLOCK) * RECORD_SIZE + 1
  if at > #block then
    r = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, task}
  else
    r = {struct.unpack(RECORD, block, at)}
    r.task = task
  end
  run.tasks[task] = r
  return r
end

-- As `task`, to be written back.
function live.touch(run, task)
  local r = run.tasks[task] or live.task(run, task)
  run.dirty[task] = r
  return r
end

-- What never changes of a base task: order_ms, deadline_ms, needs, window, edge_at, edges, class, policy.
function live.spec(run, base)
  local spec = run.specs[base]
  if spec then return spec end
  local number = math.floor(base / BLOCK)
  local block = run.spec_blocks[number]
  if not block then
    local from = number * BLOCK * SPEC_SIZE
    block = run.small and run.own_spec or redis.call("GETRANGE", run.key .. ":spec", from, from + BLOCK * SPEC_SIZE - 1)
    run.spec_blocks[number] = block
  end
  local order, deadline, needs, window, edge_at, edges, class, policy
    = struct.unpack(SPEC, block, (base - number * BLOCK) * SPEC_SIZE + 1)
  spec = {order = order, deadline = deadline, needs = needs, window = window, edge_at = edge_at, edges = edges, policy = policy,
          queue = run.namespace .. " " .. run.names[class + 1]}
  run.specs[base] = spec
  return spec
end

-- The tasks that need `task`, from number `from` (0 is the first) to before `to`.
function live.successors(run, task, from, to)
  local spec, found = live.spec(run, task), {}
  if to <= from then return found end
  local first = (spec.edge_at + from) * 4
  local last = first + (to - from) * 4 - 1
  local packed = run.small and string.sub(run.own_edges, first + 1, last + 1) or redis.call("GETRANGE", run.key .. ":edges", first, last)
  for at = 1, #packed, 4 do found[#found + 1] = struct.unpack("<I4", packed, at) end
  return found
end

-- Puts away what never changes of some tasks.
function live.keep(run, first, spec, edge_at, edges)
  if run.small then
    run.own_spec, run.own_edges = spec or "", edges or ""
    return
  end
  if spec then redis.call("SETRANGE", run.key .. ":spec", first * SPEC_SIZE, spec) end
  if edges then redis.call("SETRANGE", run.key .. ":edges", edge_at * 4, edges) end
end

-- A small run has grown: its tasks get keys of their own.
function live.unfold(run)
  if not run.small then return end
  run.small = false
  live.keep(run, 0, run.own_spec, 0, run.own_edges)
  redis.call("SET", run.key .. ":tasks", run.own_tasks)
  run.own_spec, run.own_edges, run.own_tasks = "", "", ""
end

-- Families: map parents and their children

-- By number, since an empty one begins where the next one does: `firsts` has where each begins.
function live.family(run, number)
  local family = run.families[number]
  if family then return family end
  local packed = state.field(run.rest, "family " .. number)
  local f = cmsgpack.unpack(packed)
  family = {number = number, first = run.firsts[number], parent = f[1], count = f[2], window = f[3], released = f[4], out = f[5], ended = f[6], failed = f[7],
            cancelled = f[8], skipped = f[9], fails = f[10]}
  run.families[number] = family
  return family
end

-- A new family at the end of the run; its children all wait.
function live.grow(run, parent, first, count, window)
  local number = #run.firsts + 1
  local family = {number = number, first = first, parent = parent, count = count, window = window > 0 and window or count,
                  released = 0, out = 0, ended = 0, failed = false, cancelled = false, skipped = false, fails = false}
  run.families[number] = family
  run.firsts[number] = first
  if parent >= 0 then live.touch(run, parent).family = number end
  return family
end

-- The family of a map child.
function live.siblings(run, task)
  local low, high = 1, #run.firsts
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if run.firsts[middle] <= task then low = middle else high = middle - 1 end
  end
  return live.family(run, low)
end

-- The family whose parent the task is, if it has one.
function live.children(run, task)
  if task >= run.size then return nil end
  local number = live.task(run, task).family
  return number > 0 and live.family(run, number) or nil
end

function live.is_current(run, family)
  return family.parent >= 0 and live.task(run, family.parent).family == family.number
end

function live.base(run, task)
  if task < run.size then return task end
  local parent = live.siblings(run, task).parent
  return parent >= 0 and parent or run.size - 1
end

function live.spec_of(run, task) return live.spec(run, live.base(run, task)) end
function live.policy(run, task) return live.spec_of(run, task).policy end

-- Flags

function live.has(r, bit_) return bit.band(r.flags, bit_) ~= 0 end
function live.set(r, bit_) r.flags = bit.bor(r.flags, bit_) end
function live.clear(r, bit_) r.flags = bit.band(r.flags, bit.bnot(bit_)) end

function live.park(run, r)
  if not live.has(r, IN_PARKED) then
    live.set(r, IN_PARKED)
    run.parked = run.parked + 1
  end
end

function live.orphan(run, r, on)
  if live.has(r, ORPHAN) == on then return end
  if on then live.set(r, ORPHAN) else live.clear(r, ORPHAN) end
  run.orphans = run.orphans + (on and 1 or -1)
end

-- Whether an attempt ends with the task, though it holds no lease: it is parked, or ran under an earlier engine.
function live.left_attempt(r) return live.has(r, IN_PARKED) or live.has(r, ORPHAN) end

-- Whether the ended task lets those who need it go on.
function live.met(run, task)
  local r = live.task(run, task)
  if r.state == SUCCEEDED then return true end
  if r.state == SKIPPED then return live.has(r, MET) end
  return r.state == FAILED and live.policy(run, task) == POLICY_CONTINUE
end

-- Whether nothing but a cursor that has not come so far holds a waiting task back.
function live.may_start(run, task)
  local r = live.task(run, task)
  if r.state ~= WAITING then return false end
  if task < run.size then return r.gone == live.spec(run, task).needs end
  local family = live.siblings(run, task)
  return live.is_current(run, family) and live.task(run, family.parent).state == PARKED and task - family.first < family.released
end

-- Moves a task in the counts of its run and of the engine; out of `ready`, it is offered no more.
function live.move(run, r, to)
  local from = r.state
  if from == to then return end
  local counts = run.counts
  counts[from + 1], counts[to + 1] = counts[from + 1] - 1, counts[to + 1] + 1
  if run.counted then
    counts = state.counts
    counts[from + 1], counts[to + 1] = counts[from + 1] - 1, counts[to + 1] + 1
  end
  if from == READY then ready.leave(run, r) end
  r.state = to
end

-- Counts all tasks of a run in (1) or out (-1) of the engine's counts.
function live.count(run, sign)
  run.counted = sign > 0
  state.open_runs = state.open_runs + sign
  for at = 1, 9 do state.counts[at] = state.counts[at] + sign * run.counts[at] end
end

function live.busy(run)
  local counts = run.counts
  return counts[READY + 1] > 0 or counts[RUNNING + 1] > 0 or counts[DELAYED + 1] > 0 or run.cursors[1] ~= nil
end

-- A run that only its parked tasks can move is not counted as live.
function live.rest(run)
  local resting = run.parked > 0 and not live.busy(run)
  if resting ~= run.resting then
    run.resting = resting
    state.live = state.live + (resting and -run.total or run.total)
  end
end

-- Records of tasks from `first` on: into the head of a small run, else where they belong.
local function put(run, first, records)
  local at = first * RECORD_SIZE
  if not run.small then
    redis.call("SETRANGE", run.key .. ":tasks", at, records)
    return
  end
  local own = run.own_tasks
  if #own < at then own = own .. string.rep("\0", at - #own) end
  run.own_tasks = string.sub(own, 1, at) .. records .. string.sub(own, at + #records + 1)
end

-- Writes back what has changed.
function live.write(run)
  for number, f in pairs(run.families) do
    state.hash(run.rest)["family " .. number] = cmsgpack.pack({
      f.parent, f.count, f.window, f.released, f.out, f.ended, f.failed, f.cancelled, f.skipped, f.fails,
    })
  end
  local order = {}
  for task in pairs(run.dirty) do order[#order + 1] = task end
  if order[2] then table.sort(order) end
  local at = 1
  while order[at] do
    local first, parts = order[at], {}
    while order[at] == first + #parts do
      parts[#parts + 1] = struct.pack(RECORD, unpack(run.dirty[order[at]], 1, 12))
      at = at + 1
    end
    put(run, first, table.concat(parts))
  end
  local packed = cmsgpack.pack(run.h)
  if packed ~= run.packed then redis.call("SET", run.key, packed) end
end
