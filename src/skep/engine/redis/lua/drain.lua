-- Stops grants to nodes, or allows them again.
-- keys: epoch engine events nodes
-- args: nodes packed, on flag
-- answers: ok not_found
-- events: draining registered
-- lease: none
-- include: nodes

local answers = {}
for at, id in ipairs(args.nodes) do
  local node = nodes.get(id)
  if node and node.draining ~= args.on then
    node.draining = args.on
    state.emit(args.on and "draining" or "registered", nil, {node = id, count = node.incarnation})
    state.stir("ready")
  end
  answers[at] = node and OK or NOT_FOUND
end
return state.finish(answers)
