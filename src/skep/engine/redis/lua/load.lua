-- Takes in chunks of runs; nothing of a run is ready before `open`, which the last chunk may bring along.
-- keys: epoch engine events run spec tasks edges roots rest due deadlines limits sweeping queues ready delays nodes infos
-- args: items packed
-- item: run namespace classes accepted_ms timeout_ms size timed command paused cancelling ended first count read_ms child
--       families restored spec edges edge_at roots total opens; `spec`, `edges`, `roots` are numbers of payloads
-- answers: ok expired not_found full wrong_state
-- events: as open
-- lease: none
-- include: opening

local function load(item)
  local run, first = live.run(item[1]), item[12]
  if run and first < run.loaded then return OK end
  if state.now - item[14] > LOAD_VALID_MS then return EXPIRED end
  if not run then
    if first ~= 0 then return NOT_FOUND end
    local total = item[22]
    if state.live + total > MAX_TASKS and not item[15] then return FULL end
    run = live.make(item, total)
    state.live = state.live + total
    restore.families(run, item[16])
    local roots = payload(item[21])  -- none for a small run
    if roots then
      redis.call("SET", run.key .. ":roots", roots)
      run.roots = #roots / 4
    end
  elseif first ~= run.loaded then
    return WRONG_STATE
  end
  live.keep(run, first, payload(item[18]), item[20], payload(item[19]))
  if item[17][1] or item[16][1] then
    run.restored = true
    restore.tasks(run, item[17])
  end
  if run.timed then restore.deadlines(run, first, item[13]) end
  run.loaded = run.loaded + item[13]
  return OK
end

local answers = {}
for at, item in ipairs(args.items) do
  answers[at] = load(item)
  if item[23] and answers[at] == OK then answers[at] = opening.run(item[1]) end
end
state.flush()
return state.finish(answers)
