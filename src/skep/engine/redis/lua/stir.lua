-- Stirs topics, in every process that has this engine.
-- keys: epoch engine
-- args: topics packed
-- answers: none
-- events: none
-- lease: none
-- include: state
-- time: stands

for _, topic in ipairs(args.topics) do state.stir(topic) end
return state.finish(true)
