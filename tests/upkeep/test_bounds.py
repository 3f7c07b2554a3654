"""Concurrency keys and rates, from the workflow to the nodes."""

from __future__ import annotations

from typing import Any

from skep.testing.stage import HOLD, Failed, Stage

RUN = {"run": "true"}


async def test_no_more_than_the_limit_run_at_once_whichever_their_run(stage: Stage) -> None:
    limited: dict[str, Any] = RUN | {"concurrency": {"key": "api", "limit": 2}}
    node = await stage.node(script=dict.fromkeys("abcd", HOLD))
    for name in "abcd":
        await stage.submit({name: limited})
    await stage.submit({"free": RUN})
    await stage.go()
    assert sorted(node.held) == ["a", "b"]
    assert node.started == ["a", "b", "free"]
    for name, following in (("a", ["b", "c"]), ("b", ["c", "d"])):
        await node.finish(name)
        await stage.go()
        assert sorted(node.held) == following


async def test_children_of_a_map_have_keys_of_their_own(stage: Stage) -> None:
    """Also where their call is the same for all of them."""
    node = await stage.node(script={"a": HOLD})
    await stage.submit({"a": RUN | {"map": [1, 1, 2], "concurrency": {"key": "${{ item }}"}}})
    await stage.go()
    assert sorted(node.held) == ["a[0]", "a[2]"]


async def test_defaults_bound_every_task_that_they_fit(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD, "b": HOLD})
    defaults = {"concurrency": {"key": "${{ run.id }}"}}
    await stage.submit({"a": RUN, "b": RUN, "ask": {"approval": "?"}}, defaults=defaults)
    await stage.go()
    assert sorted(node.held) == ["a"]


async def test_namespaces_do_not_share_keys(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD})
    for namespace in ("x", "y"):
        await stage.submit({"a": RUN | {"concurrency": {"key": "k"}, "rate": {"key": "k", "per_hour": 1}}}, namespace=namespace)
    await stage.go()
    assert node.started == ["a", "a"]


async def test_starts_are_spread_over_time(stage: Stage) -> None:
    node = await stage.node()
    await stage.submit({"a": RUN | {"map": list(range(6)), "rate": {"key": "api", "per_minute": 60, "burst": 2}}})
    await stage.go()
    assert node.started == ["a[0]", "a[1]"]
    await stage.go(999)
    assert len(node.started) == 2
    for count in (3, 4, 5, 6):
        await stage.go(1_000)
        assert len(node.started) == count


async def test_a_retry_is_a_start_too(stage: Stage) -> None:
    outcomes = iter([Failed(), 1])
    node = await stage.node(script={"a": lambda _: next(outcomes)})
    await stage.submit({"a": RUN | {"retries": {"limit": 1, "delay": 0}, "rate": {"key": "api", "per_second": 1}}})
    await stage.go()
    await stage.go(900)
    assert len(node.started) == 1
    await stage.go(200)
    assert len(node.started) == 2


async def test_after_an_engine_was_lost_who_runs_counts_and_a_rate_begins_anew(stage: Stage) -> None:
    node = await stage.node(script={"a": HOLD, "c": HOLD})
    bound = RUN | {"concurrency": {"key": "k", "limit": 2}, "rate": {"key": "r", "per_hour": 1, "burst": 1}}
    for name in "abc":
        await stage.submit({name: bound})
    await stage.go()
    assert node.started == ["a"]
    after = await stage.reopened("n")
    await after.take_up(node)
    await after.go()
    assert node.started == ["a", "b"], "one burst more"
    await after.go(3_600_000)
    assert node.started == ["a", "b", "c"]
