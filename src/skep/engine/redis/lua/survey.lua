-- `nodes` and `ready` in one look.
-- keys: epoch engine nodes running infos queues ready run tasks spec rest
-- args: limit number
-- answers: as `nodes`, as `ready`
-- events: none
-- lease: none
-- include: look
-- time: stands

return state.finish(nil, {packed_list(look.nodes()), packed_list(look.ready(args.limit))})
