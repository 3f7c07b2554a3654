-- `nodes` and `ready` in one look.
-- keys: epoch engine nodes infos queues ready run tasks spec rest
-- args: limit number
-- answers: as `nodes`, as `ready`
-- events: none
-- lease: none
-- include: look
-- time: stands

local both = {look.nodes(), look.ready(args.limit)}
for at, parts in ipairs(both) do both[at] = struct.pack(">BI4", 0xdd, #parts) .. table.concat(parts) end
return state.finish(nil, both)
