-- Gives no claim to anyone for so long. A repeat can only make it longer; 0 ends it.
-- keys: epoch engine limits
-- args: ms number
-- answers: none
-- events: none
-- lease: none
-- include: ends

local till = state.now + args.ms
if args.ms == 0 and state.withheld > state.now then
  state.withheld = state.now
  claims.give_again()
elseif args.ms > 0 and till > state.withheld then
  state.withheld = till
  claims.withhold()
  state.push("limits", till, "withheld", "")
end
return state.finish(true)
