-- The highest mark that `trim` was told.
-- keys: epoch engine
-- args:
-- answers: number
-- events: none
-- lease: none
-- include: state
-- time: stands

return state.finish(state.mark)
