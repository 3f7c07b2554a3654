-- Up to `limit` tasks of each class, best first, for `place` to decide on.
-- keys: epoch engine running queues ready run tasks spec rest
-- args: limit number
-- answers: namespace, class, tasks: run task version failing unmet attempts failures parent child score, running
-- events: none
-- lease: none
-- include: look
-- time: stands

return state.finish(nil, look.ready(args.limit))
