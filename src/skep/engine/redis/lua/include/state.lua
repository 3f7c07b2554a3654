-- What one engine knows beside its runs and nodes: time, numbers, counts; and a verb's frame.
-- A verb reads and decides in tables; `state.finish` writes what has changed, tells it, and packs the answer.

local FRESH = {0, 0, 0, 0, 0, 0, 0, 0, 0, 3, "", 0, 0, false, {0, 0, 0, 0, 0, 0, 0, 0, 0}}

state = {budget = RELEASE_LIMIT, log = {}, fresh = {}, fresh_order = {}, stirred = {}, runs = {}, nodes = {}, leases = {},
               ended = {}, queues = {}, inboxes = {}, held = {}, hashes = {}}

local function int(n)  -- a whole number as MessagePack
  if n >= 0 then
    if n < 128 then return string.char(n) end
    if n < 65536 then return struct.pack(">BI2", 0xcd, n) end
    if n < 4294967296 then return struct.pack(">BI4", 0xce, n) end
    return struct.pack(">BI8", 0xcf, n)
  end
  if n >= -32 then return string.char(256 + n) end
  return struct.pack(">Bi8", 0xd3, n)
end

local function text(s)  -- a string as MessagePack
  if #s < 32 then return string.char(160 + #s) .. s end
  if #s < 65536 then return struct.pack(">BI2", 0xda, #s) .. s end
  return struct.pack(">BI4", 0xdb, #s) .. s
end

local function numbers(list)  -- a list of whole numbers as MessagePack
  local parts = {struct.pack(">BI4", 0xdd, #list)}
  for at = 1, #list do parts[at + 1] = int(list[at]) end
  return table.concat(parts)
end

-- The frame of a verb

function state.begin()
  local packed = redis.call("GET", P .. "engine")
  local kept = packed and cmsgpack.unpack(packed) or FRESH
  state.now, state.clock, state.n, state.mark, state.trimmed = kept[1], kept[2], kept[3], kept[4], kept[5]
  state.sequence, state.live, state.number, state.withheld, state.max_lost = kept[6], kept[7], kept[8], kept[9], kept[10]
  state.leader, state.leads_until, state.open_runs, state.withholding, state.counts = kept[11], kept[12], kept[13], kept[14], kept[15]
  state.packed, state.first = packed, state.n
end

-- Engine time: as handed in, else on by what the store's clock has gone since, 0 to 5 s.
function state.tick()
  if ARGV[2] ~= "" then
    state.now = math.max(state.now, tonumber(ARGV[2]))
  else
    local time = redis.call("TIME")
    local clock = time[1] * 1000 + math.floor(time[2] / 1000)
    if state.clock == 0 then
      state.now = clock
    else
      state.now = state.now + math.min(math.max(clock - state.clock, 0), CLOCK_STEP_MS)
    end
    state.clock = clock
  end
end

function state.next()
  state.sequence = state.sequence + 1
  return state.sequence
end

function state.stir(topic) state.stirred[topic] = true end

-- Something is due later. `heap`: delays or limits; ties go by the order of pushing.
function state.push(heap, due, kind, name, task, mark)
  local what = cmsgpack.pack({kind, name, task or -1, mark or 0})
  redis.call("ZADD", P .. heap, due, string.format("%016d", state.next()) .. what)
  state.stir("due")
end

-- The first entry of a heap that is due: its member, when it is due, and kind, name, task, mark.
function state.due(heap)
  local found = redis.call("ZRANGEBYSCORE", P .. heap, "-inf", state.now, "WITHSCORES", "LIMIT", 0, 1)
  if not found[1] then return nil end
  return found[1], tonumber(found[2]), cmsgpack.unpack(string.sub(found[1], 17))
end

-- When the first entry of a heap is due; 0 for none.
function state.next_due(heap)
  local found = redis.call("ZRANGE", P .. heap, 0, 0, "WITHSCORES")
  return tonumber(found[2] or 0)
end

-- Events, as MessagePack maps from field to value

local TOLD, KIND = {}, {}
for _, name in ipairs({"n", "at_ms", "kind", "run", "task", "attempt", "token", "token_epoch", "node", "state", "reason", "tasks",
                       "first", "count", "due_ms", "started_ms", "ran_ms", "error", "output", "data", "command"}) do
  TOLD[name] = text(name)
end
local WHOLE = {"task", "attempt", "token", "token_epoch", "state", "first", "count", "due_ms", "started_ms", "ran_ms", "command"}
local RAW = {"error", "output", "data"}  -- payloads come packed
state.told = TOLD

-- Tells what happened: `packed` are `count` more fields.
function state.tell(kind, run, count, packed)
  local n = state.n + 1
  state.n = n
  state.at = state.at or TOLD.at_ms .. int(state.now) .. TOLD.kind
  local said = KIND[kind]
  if not said then
    said = text(kind)
    KIND[kind] = said
  end
  if run then
    local name = run.told
    if not name then
      name = TOLD.run .. text(run.id)
      run.told = name
    end
    state.log[#state.log + 1] = struct.pack(">BI2", 0xde, count + 4) .. TOLD.n .. int(n) .. state.at .. said .. name .. packed
  else
    state.log[#state.log + 1] = struct.pack(">BI2", 0xde, count + 3) .. TOLD.n .. int(n) .. state.at .. said .. packed
  end
  return n
end

-- The same, of a table of fields.
function state.emit(kind, run, fields)
  local count, parts = 0, {}
  local function add(name, packed)
    count = count + 1
    parts[2 * count - 1], parts[2 * count] = TOLD[name], packed
  end
  for _, name in ipairs(WHOLE) do
    if fields[name] then add(name, int(fields[name])) end
  end
  for _, name in ipairs(RAW) do
    if fields[name] then add(name, fields[name]) end
  end
  if fields.node then add("node", text(fields.node)) end
  if fields.reason and fields.reason ~= "" then add("reason", text(fields.reason)) end
  if fields.tasks then add("tasks", numbers(fields.tasks)) end
  return state.tell(kind, run, count, table.concat(parts))
end

-- Tells of the tasks that became ready, run by run.
function state.flush()
  for _, run in ipairs(state.fresh_order) do
    state.emit("ready", run, {tasks = state.fresh[run]})
  end
  if state.fresh_order[1] then state.fresh, state.fresh_order = {}, {} end
end

-- Small changes to hashes, written together: state.hash(key)[field] = value, or false to remove it.
function state.hash(key)
  local changes = state.hashes[key]
  if not changes then
    changes = {}
    state.hashes[key] = changes
  end
  return changes
end

-- A field, as this verb has left it so far; nil when there is none.
function state.field(key, name)
  local value = state.hash(key)[name]
  if value == nil then value = redis.call("HGET", P .. key, name) end
  return value or nil
end

-- Calls a command with many arguments, some at a time.
local function many(command, key, list, size)
  for at = 1, #list, size do
    redis.call(command, key, unpack(list, at, math.min(at + size - 1, #list)))
  end
end

local function write_hashes()
  for key, changes in pairs(state.hashes) do
    local set, gone = {}, {}
    for field, value in pairs(changes) do
      if value then
        set[#set + 1], set[#set + 2] = field, value
      else
        gone[#gone + 1] = field
      end
    end
    many("HSET", P .. key, set, 1000)
    many("HDEL", P .. key, gone, 1000)
  end
end

local function packed_list(parts)  -- of what is packed already
  return struct.pack(">BI4", 0xdd, #parts) .. table.concat(parts)
end

-- What nodes were given: node, incarnation, entries.
local function given()
  local found = {}
  for id, list in pairs(state.inboxes) do
    found[#found + 1] = "\147" .. text(id) .. int(nodes.get(id).incarnation) .. packed_list(list)
  end
  return packed_list(found)
end

-- Writes all, tells who has to hear, and packs the answer: last event, engine time, topics, answers; and what need not be asked for
-- any more: its events, what nodes were given, and for who places what is ready, if that is little, as `survey` has it.
-- `parts`: instead of `answers`, a list whose items are packed already.
function state.finish(answers, parts)
  for _, run in pairs(state.runs) do
    if run then live.write(run) end
  end
  if nodes then nodes.write() end
  if ready then ready.write() end
  write_hashes()
  many("RPUSH", P .. "events", state.log, 1000)
  many("RPUSH", P .. "ended", state.ended, 1000)
  local packed = cmsgpack.pack({
    state.now, state.clock, state.n, state.mark, state.trimmed, state.sequence, state.live, state.number, state.withheld,
    state.max_lost, state.leader, state.leads_until, state.open_runs, state.withholding, state.counts,
  })
  if packed ~= state.packed then redis.call("SET", P .. "engine", packed) end
  if state.n > state.first then state.stir("events") end
  local topics = {}
  for topic in pairs(state.stirred) do topics[#topics + 1] = topic end
  if topics[1] then
    table.sort(topics)
    redis.call("PUBLISH", P .. "topics", cmsgpack.pack({ARGV[3], topics}))
  end
  local seen = "\192"
  if ARGV[4] == "1" and look and state.stirred.ready and state.counts[READY + 1] <= SMALL_LOOK then seen = look.both() end
  return "\151" .. cmsgpack.pack(state.n, state.now, topics) .. (parts and packed_list(parts) or cmsgpack.pack(answers))
           .. packed_list(state.log) .. (nodes and given() or "\144") .. seen
end
