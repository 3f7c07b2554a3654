-- Signs of life; a lease that the node should have and does not list returns to ready.
-- keys: epoch engine events nodes running beats held_by inbox leases run tasks rest claims holders waiters line queues ready
-- args: items packed
-- item: node incarnation leases seen server; leases: numbers of tokens of this epoch
-- answers: ok not_found
-- events: returned failed cancelled ready
-- lease: none
-- include: ends

local function beat(item)
  local node = nodes.get(item[1])
  if not node or node.incarnation ~= item[2] then return NOT_FOUND end
  node.beat, node.server = state.now, item[5]
  if node.beats then redis.call("ZADD", P .. "beats", state.now, node.id) end
  local listed, missing = {}, {}
  for _, n in ipairs(item[3]) do listed[n] = true end
  for _, n in ipairs(nodes.leases(node)) do
    if not listed[n] then missing[#missing + 1] = n end
  end
  if not missing[1] then return OK end
  local unseen = nodes.unseen(node, item[4])
  for _, n in ipairs(missing) do
    if not unseen[n] and not leases.get(n).ended then ends.return_lease(n, "unlisted") end
  end
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = beat(item) end
state.flush()
return state.finish(answers)
