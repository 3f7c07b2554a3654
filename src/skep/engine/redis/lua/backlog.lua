-- How many events are above the mark.
-- keys: epoch engine
-- args:
-- answers: number
-- events: none
-- lease: none
-- include: state
-- time: stands

return state.finish(state.n - state.mark)
