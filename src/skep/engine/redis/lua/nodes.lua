-- All nodes.
-- keys: epoch engine nodes infos
-- args:
-- answers: info free leases draining beat_ms coming server
-- events: none
-- lease: none
-- include: look
-- time: stands

return state.finish(nil, look.nodes())
