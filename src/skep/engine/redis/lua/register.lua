-- Nodes join; a newer incarnation of the same id replaces the old one, whose leases return.
-- keys: epoch engine events nodes running infos beats inbox held_by dismissed leases run tasks rest limits claims holders queues ready
-- args: items packed
-- item: id incarnation beats coming free info; `info` is the number of a payload
-- answers: ok refused
-- events: registered lost returned failed cancelled ready
-- lease: none
-- include: ends

local function register(item)
  local id, incarnation = item[1], item[2]
  local old = nodes.get(id)
  if old then
    if old.incarnation == incarnation then return OK end
    if old.incarnation > incarnation then return REFUSED end
    ends.leave(old, "lost")
  end
  nodes.make(id, incarnation, item[3], item[4], item[5])
  state.hash("infos")[id] = payload(item[6])
  state.emit("registered", nil, {node = id, count = incarnation})
  state.stir("ready")
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do answers[at] = register(item) end
state.flush()
return state.finish(answers)
