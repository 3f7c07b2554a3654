-- Lets the first tasks of runs out. Refused before the last chunk.
-- keys: epoch engine events run spec tasks edges roots rest due deadlines limits sweeping queues ready delays
-- args: runs packed
-- answers: ok not_found wrong_state
-- events: loaded ready skipped succeeded failed cancelled cancelling ended
-- lease: none
-- include: opening

local answers = {}
for at, id in ipairs(args.runs) do answers[at] = opening.run(id) end
state.flush()
return state.finish(answers)
