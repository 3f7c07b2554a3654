-- Gives no claim to anyone for so long. A repeat can only make it longer.
-- keys: epoch engine limits
-- args: ms number
-- answers: none
-- events: none
-- lease: none
-- include: ends

local till = state.now + args.ms
if till > state.withheld then
  state.withheld = till
  claims.withhold()
  state.push("limits", till, "withheld", "")
end
return state.finish(true)
