-- Nodes leave, in good order or not; their leases return at once.
-- keys: epoch engine events nodes running infos beats inbox held_by dismissed leases run tasks rest limits claims holders queues ready
-- args: nodes packed, lost flag
-- item: id incarnation
-- answers: ok not_found
-- events: retired lost returned failed cancelled ready
-- lease: none
-- include: ends

local answers = {}
for at, item in ipairs(args.nodes) do
  local node = nodes.get(item[1])
  if node and node.incarnation < item[2] then
    answers[at] = NOT_FOUND
  else
    if node and node.incarnation == item[2] then ends.leave(node, args.lost and "lost" or "retired") end
    answers[at] = OK  -- also when it has left before
  end
end
state.flush()
return state.finish(answers)
