-- Takes or renews the leader's lease.
-- keys: epoch engine
-- args: server text, hold_ms number
-- answers: true; false: another server has it
-- events: none
-- lease: none
-- include: state

if state.leader ~= args.server and state.leads_until > state.now then return state.finish(false) end
state.leader, state.leads_until = args.server, state.now + args.hold_ms
return state.finish(true)
