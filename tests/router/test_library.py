"""The router as a library: endpoints, requests, and what is told of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from skep.clock import ManualClock
from skep.router import Balancer, Endpoint, Needs, NoEndpointError, RouterSettings

THREE = (
    Endpoint(id="big", region="us-east", weight=2.0, cost_per_hour=10.0, capabilities=("gpu", "cpu"), slots=4, cpus=4),
    Endpoint(id="mid", region="us-east", weight=1.0, cost_per_hour=2.0, slots=4, cpus=2),
    Endpoint(id="edge", region="us-west", weight=0.8, cost_per_hour=1.0, slots=2, cpus=1),
)


def balancer(settings: RouterSettings | None = None, **more: Any) -> tuple[Balancer, ManualClock]:
    clock = ManualClock()
    made = Balancer(clock.now_ms, settings, **more)
    for endpoint in THREE:
        made.register(endpoint)
    return made, clock


def test_requests_go_where_they_can_be_served() -> None:
    made, _ = balancer()
    assert made.route(Needs(requires_gpu=True)).id == "big"
    assert made.route(Needs(region="us-west")) == THREE[2]
    assert made.route(Needs(prefer=("edge",))).id == "edge"


def test_who_is_sensitive_to_cost_goes_to_the_cheapest_but_not_when_it_is_urgent() -> None:
    made, _ = balancer()
    for name, seconds in (("big", 1.0), ("mid", 1.5), ("edge", 1.5)):
        for _ in range(8):
            assert made.route(Needs(prefer=(name,))).id == name
            made.report(name, True, seconds)
    assert made.route(Needs(cost_sensitive=True)).id == "edge"
    assert made.route(Needs(cost_sensitive=True, priority=9)).id == "big"


def test_an_endpoint_gets_no_more_than_it_has_slots_and_cores_for() -> None:
    made, _ = balancer()
    found = Counter(made.route().id for _ in range(10))
    assert found == {"big": 4, "mid": 4, "edge": 2}
    with pytest.raises(NoEndpointError, match="are full"):
        made.route()
    made.report("edge", True, 0.1)
    assert made.route().id == "edge"
    made, _ = balancer()
    assert Counter(made.route(Needs(cpu_intensive=True)).id for _ in range(7)) == {"big": 4, "mid": 2, "edge": 1}


def test_it_learns_who_is_fast() -> None:
    made, _ = balancer()
    for _ in range(6):
        for _ in range(10):
            made.route(Needs(kind="thumbnail"))
        for name, count, seconds in (("big", 4, 3.0), ("mid", 4, 0.5), ("edge", 2, 6.0)):
            for _ in range(count):
                made.report(name, True, seconds, kind="thumbnail")
    assert [made.route(Needs(kind="thumbnail")).id for _ in range(3)] == ["mid"] * 3


def test_an_endpoint_that_fails_is_left_alone_and_tried_again_later() -> None:
    made, clock = balancer()
    for turn in range(4):
        for _ in range(10):
            try:
                made.route()
            except NoEndpointError:
                break
        for endpoint in THREE:
            for _ in range(4):
                made.report(endpoint, endpoint.id != "mid" or turn == 0, 0.1)
    assert {one.id: one.breaker for one in made.metrics()}["mid"] == {"": "open"}
    assert "mid" not in {made.route().id for _ in range(6)}
    clock.advance(60_000)
    assert made.route().id == "mid"
    assert {one.id: one.breaker for one in made.metrics()}["mid"] == {"": "half-open"}
    with pytest.raises(NoEndpointError):
        made.route()
    made.report("mid", True, 0.1)
    assert made.route().id == "mid"


def test_metrics_count_what_happened() -> None:
    made, clock = balancer()
    made.route(Needs(requires_gpu=True))
    made.route(Needs(requires_gpu=True))
    clock.advance(3_600_000)
    made.report("big", True)
    told = {one.id: one for one in made.metrics()}["big"]
    assert (told.in_flight, told.routed, told.succeeded, told.failed, told.utilisation) == (1, 2, 1, 0, 0.25)
    assert (told.mean_s, told.cost) == (3_600.0, 10.0)
    assert told.region == "us-east"


def test_endpoints_come_change_and_go() -> None:
    made, _ = balancer()
    made.route(Needs(requires_gpu=True))
    made.register(Endpoint(id="big", capabilities=("gpu",), slots=1))
    with pytest.raises(NoEndpointError):
        made.route(Needs(requires_gpu=True))
    made.deregister("big")
    made.deregister("big")
    made.report("big", True, 1.0)
    with pytest.raises(NoEndpointError, match="lacks gpu"):
        made.route(Needs(requires_gpu=True))
    made.deregister("mid")
    made.deregister("edge")
    with pytest.raises(NoEndpointError, match="there are no endpoints; register one"):
        made.route()


def test_affinity_keeps_a_conversation_on_its_endpoint() -> None:
    made, _ = balancer()
    first = made.route(Needs(affinity="talk-1")).id
    for other in range(4):
        made.route(Needs(affinity=f"other-{other}"))
    assert made.route(Needs(affinity="talk-1")).id == first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": ""}, "id: expected a name"),
        ({"weight": 0.0}, "weight: expected more than 0"),
        ({"weight": float("nan")}, "weight: expected more than 0"),
        ({"cost_per_hour": -1.0}, "cost_per_hour: expected a number of 0 or more"),
        ({"cost_per_hour": float("nan")}, "cost_per_hour: expected a number of 0 or more"),
        ({"slots": -1}, "slots of 0 or more"),
    ],
)
def test_wrong_endpoints_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"id": "x", **wrong})


async def test_many_tasks_may_share_it() -> None:
    made, _ = balancer()
    flying: Counter[str] = Counter()

    async def request() -> None:
        for _ in range(20):
            try:
                endpoint = made.route()
            except NoEndpointError:
                await asyncio.sleep(0)
                continue
            flying[endpoint.id] += 1
            assert flying[endpoint.id] <= endpoint.slots
            await asyncio.sleep(0)
            flying[endpoint.id] -= 1
            made.report(endpoint, True, 0.01)

    await asyncio.gather(*(request() for _ in range(40)))
    assert sum(one.in_flight for one in made.metrics()) == 0


def test_threads_may_share_it_with_a_lock() -> None:
    made, _ = balancer(lock=threading.Lock())
    done: list[int] = []

    def request() -> None:
        for _ in range(100):
            try:
                made.report(made.route(), True, 0.01)
            except NoEndpointError:
                continue
            done.append(1)

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    told = made.metrics()
    assert sum(one.in_flight for one in told) == 0
    assert sum(one.succeeded for one in told) == sum(one.routed for one in told) == len(done)


def test_the_light_parts_do_not_load_numpy() -> None:
    code = (
        "import sys, skep.router, skep.router.fit, skep.router.wanted, skep.router.settings; sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
