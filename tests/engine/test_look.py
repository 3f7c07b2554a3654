"""A look at the nodes shows them as they are, and untouched ones as the same objects."""

from __future__ import annotations

import random

from skep.engine.memory.core import Core
from skep.engine.protocol import Beat, Done, Load, Register, Start
from skep.flow.plan import compile_plan
from skep.model.node import NodeInfo
from skep.model.run import Token
from skep.testing.lab.figures import workflow


def test_a_look_is_what_a_list_is_after_whatever_happened() -> None:
    core, chance = Core(1), random.Random(7)
    core.register(1, [Register(NodeInfo(f"n{at}", slots=3), coming=at == 2) for at in range(4)])
    plan = compile_plan(workflow([()] * 60))
    core.load(1, [Load(run="r", namespace="d", shape=plan.shape, first=0, count=60, read_ms=1, accepted_ms=1)])
    core.open(1, ["r"])
    leases: list[Done] = []
    for now_ms in range(2, 120):
        match chance.choice(("start", "end", "beat", "drain", "take", "lose")):
            case "start":
                for seen in core.ready(1)[0].tasks if core.ready(1) else ():
                    node = f"n{chance.randrange(4)}"
                    core.place(now_ms, [Start("r", seen.task, seen.version, False, node, "t", b"", (("slots", 1),))])
            case "end" if core.leases:
                n, lease = chance.choice(list(core.leases.items()))
                leases.append(Done("r", lease.task, Token(1, n)))
                core.complete(now_ms, leases[-1:])
            case "beat":
                core.beat(now_ms, [Beat(f"n{chance.randrange(4)}", 1, seen=1_000)])
            case "drain":
                core.drain(now_ms, [f"n{chance.randrange(4)}"], chance.random() < 0.5)
            case "take":
                core.take("n2", 1, 0, 10)
            case "lose":
                core.retire(now_ms, [("n3", 1)], lost=True)
                core.register(now_ms, [Register(NodeInfo("n3", slots=3, incarnation=1))])
        after = core.look_at_nodes()
        assert after == core.list_nodes()
        assert all(new is again for new, again in zip(after, core.look_at_nodes(), strict=True))
