-- Claims: units of something bounded that is shared by the fleet. A taker fits when `used + ahead + units <= cap`, where
-- `ahead` are the units of those who wait with a lower number: nobody overtakes, and shared ones that fit together wake together.
-- What is used of a rate comes back by itself, one unit in a microsecond (the leaky bucket as a meter, ITU-T I.371): `empty` is
-- when all of it has, in microseconds; whoever waits for it wakes by one alarm for each rate.
-- claims: key -> cap, used, ahead (units of all who wait), holders, waiters, order, alarm (0: it is no rate), empty.
-- holders: "lease key" -> units. waiters: "number key" -> who waits; line:<key>: their numbers.
-- include: state

claims = {}
local counters = {}

local function counter(key)
  local c = counters[key]
  if c ~= nil then return c or nil end
  local packed = state.field("claims", key)
  if not packed then
    counters[key] = false
    return nil
  end
  local f = cmsgpack.unpack(packed)
  c = {key = key, cap = f[1], used = f[2], ahead = f[3], holders = f[4], waiters = f[5], order = f[6],
       alarm = f[7] or 0, empty = f[8] or 0}
  counters[key] = c
  return c
end

local function keep(c)
  state.hash("claims")[c.key] = cmsgpack.pack({c.cap, c.used, c.ahead, c.holders, c.waiters, c.order, c.alarm, c.empty})
end

local function make(key, cap)
  local c = {key = key, cap = cap, used = 0, ahead = 0, holders = 0, waiters = 0, order = state.next(), alarm = 0, empty = 0}
  counters[key] = c
  return c
end

-- Units that are not there now.
local function used(c)
  if c.alarm == 0 then return c.used end
  return math.max(c.empty - state.now * 1000, 0)
end

local function set_alarm(c, due)
  c.alarm = due
  state.push("delays", due, "rate", c.key)
end

local function make_rate(key, cap)
  local c = make(key, cap)
  set_alarm(c, state.now + FORGET_MS)
  return c
end

local function waiter(key, number)
  local packed = state.field("waiters", number .. " " .. key)
  return packed and cmsgpack.unpack(packed)  -- units, awake, kind, run or "", task or lease, hold_ms, units asked for, cap
end

local function keep_waiter(key, number, who)
  state.hash("waiters")[number .. " " .. key] = who and cmsgpack.pack(who)
end

local function line(key, below)
  return redis.call("ZRANGEBYSCORE", P .. "line:" .. key, "-inf", below)
end

function claims.next_number()
  state.number = state.number + 1
  return state.number
end

-- Units of those who wait before `number`; 0 is behind all.
local function ahead(c, number)
  if number == 0 then return c.ahead end
  local units = 0
  for _, other in ipairs(line(c.key, "(" .. number)) do units = units + waiter(c.key, other)[1] end
  return units
end

-- The first claim that does not fit, else nil. `list`: {key, units, cap} each; `rates`: whether they are rates, which are given also
-- while claims are withheld.
function claims.blocked(list, number, rates)
  if state.withholding and list[1] and not rates then return list[1] end
  for _, claim in ipairs(list) do
    local c = counter(claim[1])
    if c then
      c.cap = claim[3]
      keep(c)
      if used(c) + ahead(c, number) + math.min(claim[2], claim[3]) > c.cap then return claim end
    end
  end
  return nil
end

-- Takes all of them for a lease; the caller has seen that they fit.
function claims.take(list, lease)
  for _, claim in ipairs(list) do
    local c = counter(claim[1]) or make(claim[1], claim[3])
    local units = math.min(claim[2], claim[3])
    local held = claims.held(claim[1], lease)
    c.used = c.used + units
    if held == nil then c.holders = c.holders + 1 end
    state.hash("holders")[lease .. " " .. claim[1]] = (held or 0) + units
    keep(c)
  end
end

-- Spends of rates; the caller has seen that it fits.
function claims.spend(rates)
  for _, rate in ipairs(rates) do
    local c = counter(rate[1]) or make_rate(rate[1], rate[3])
    c.empty = math.max(c.empty, state.now * 1000) + math.min(rate[2], rate[3])
    keep(c)
  end
end

-- Sees to it that the alarm of a rate comes when the first who sleeps has room, if those before it stay.
local function look_later(c)
  local units, last, more = 0, 0, c.waiters > 0
  while more do
    local page = redis.call("ZRANGEBYSCORE", P .. "line:" .. c.key, "(" .. last, "+inf", "LIMIT", 0, 50)
    more = #page == 50
    for _, number in ipairs(page) do
      last = number
      local known = waiter(c.key, number)
      units = units + known[1]
      if not known[2] then
        local due = math.max(math.ceil((c.empty + units - known[8]) / 1000), state.now)
        if units <= known[8] and due < c.alarm then set_alarm(c, due) end
        return
      end
    end
  end
end

-- The units that a lease has; nil for no holder.
function claims.held(key, lease)
  local units = state.field("holders", lease .. " " .. key)
  return units and tonumber(units)
end

-- Enters the claim's list, or stays in it asleep. Who: `kind` (task or lock), its run, task or lease, and for how long.
function claims.wait(claim, number, kind, run, which, hold, rate)
  local key = claim[1]
  local c = counter(key) or (rate and make_rate or make)(key, claim[3])
  local known = waiter(key, number)
  if known then
    c.ahead = c.ahead - known[1]
  else
    c.waiters = c.waiters + 1
    redis.call("ZADD", P .. "line:" .. key, number, number)
  end
  local units = math.min(claim[2], claim[3])
  c.ahead = c.ahead + units
  keep_waiter(key, number, {units, false, kind, run, which, hold, claim[2], claim[3]})
  if c.alarm > 0 then look_later(c) end
  keep(c)
end

local function remove(key, number)
  local c, known = counter(key), waiter(key, number)
  if not c or not known then return nil end
  redis.call("ZREM", P .. "line:" .. key, number)
  c.ahead, c.waiters = c.ahead - known[1], c.waiters - 1
  keep_waiter(key, number, false)
  keep(c)
  return c
end

-- Takes a waiter that got its units off the list; nobody else can fit by that.
function claims.served(key, number) remove(key, number) end

-- Leaves the list; those behind may wake.
function claims.leave(key, number)
  local c = remove(key, number)
  if c then claims.wake(c) end
end

-- Gives a lease's units back; the first who fit wake.
function claims.free(key, lease)
  local c = counter(key)
  if not c then return end
  local units = claims.held(key, lease)
  if units == nil then return end
  state.hash("holders")[lease .. " " .. key] = false
  c.holders = c.holders - 1
  keep(c)
  if units > 0 then
    c.used = c.used - units
    keep(c)
    claims.wake(c)
  end
end

local function forget(c)
  counters[c.key] = false
  state.hash("claims")[c.key] = false
end

-- Wakes those at the front who fit, each by its own cap, up to `limit` of them; answers how many.
function claims.wake(c, limit)
  if state.withholding and c.alarm == 0 then return 0 end
  local units, last, more, woken = used(c), 0, c.waiters > 0, 0
  while more do
    local page = redis.call("ZRANGEBYSCORE", P .. "line:" .. c.key, "(" .. last, "+inf", "LIMIT", 0, 50)
    more = #page == 50
    for _, number in ipairs(page) do
      last = number
      local known = waiter(c.key, number)
      units = units + known[1]
      if units > known[8] or woken == limit then
        more = false
        break
      end
      if not known[2] then
        known[2], woken = true, woken + 1
        keep_waiter(c.key, number, known)
        claims.rouse(c.key, tonumber(number), known)
      end
    end
  end
  if c.alarm > 0 then
    look_later(c)
    keep(c)
  elseif c.holders == 0 and c.waiters == 0 then
    forget(c)
  end
  return woken
end

-- The alarm of a rate: wakes up to `limit` of those who fit by now, and answers how many. Sets the next alarm, or forgets the rate
-- when all of it has come back and nobody waits.
function claims.look_again(key, due, limit)
  local c = counter(key)
  if not c or c.alarm ~= due then return 0 end  -- another one was set since
  if c.waiters == 0 and used(c) == 0 then
    forget(c)
    return 0
  end
  local latest = math.max(state.now + FORGET_MS, math.ceil(c.empty / 1000))
  c.alarm = latest
  local woken = claims.wake(c, limit)
  if c.alarm == latest then set_alarm(c, latest) end
  keep(c)
  return woken
end

-- Somebody has come to the front and fits.
function claims.rouse(key, number, known)
  if known[3] == "task" then
    local run = live.run(known[4])
    if run then ready.enter(run, live.task(run, known[5])) end
  else
    leases.grant_ask(known[5], {key, known[7], known[8]}, number, known[6])
  end
end

-- Gives nothing until `give_again`; who asks waits.
function claims.withhold() state.withholding = true end

function claims.give_again()
  state.withholding = false
  local found, all = redis.call("HKEYS", P .. "claims"), {}
  for _, key in ipairs(found) do counter(key) end
  for _, c in pairs(counters) do
    if c then all[#all + 1] = c end
  end
  table.sort(all, function(a, b) return a.order < b.order end)
  for _, c in ipairs(all) do
    if counters[c.key] then claims.wake(c) end
  end
end

-- Where somebody stands in a claim's line: units, cap, used, how many before, how many in all, when a rate has room for it if each
-- of those before spends as much (0: it is no rate). Nothing for nowhere, and for who was called up.
function claims.stands(key, number)
  local c, known = counter(key), waiter(key, number)
  if not c or not known or known[2] then return nil end
  local before, due = redis.call("ZCOUNT", P .. "line:" .. key, "-inf", "(" .. number), 0
  if c.alarm > 0 then due = math.max(math.ceil((c.empty + known[1] * (before + 1) - known[8]) / 1000), state.now) end
  return known[1], known[8], used(c), before, c.waiters, due
end

-- The oldest leases with units of a claim, {lease, units} each, as far as it looks: a claim that nobody holds takes no longer.
function claims.oldest(key)
  local units, all, cursor, looked = {}, {}, "0", 0
  repeat
    local page = redis.call("HSCAN", P .. "holders", cursor, "COUNT", LOOK_LIMIT)
    cursor, looked = page[1], looked + LOOK_LIMIT
    for at = 1, #page[2], 2 do
      local place, held = page[2][at], tonumber(page[2][at + 1])
      local space = string.find(place, " ", 1, true)
      if held > 0 and string.sub(place, space + 1) == key then units[tonumber(string.sub(place, 1, space - 1))] = held end
    end
  until cursor == "0" or looked >= HOLDERS_LOOK
  for n, held in pairs(units) do all[#all + 1] = {n, held} end
  table.sort(all, function(a, b) return a[1] < b[1] end)
  for at = #all, HOLDERS + 1, -1 do all[at] = nil end
  return all
end
