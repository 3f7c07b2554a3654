"""Workflows of users, in a test of theirs."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import skep.testing
from skep import approval, context, http, shell, task, uses, wait_for, workflow
from skep.errors import RefusedError, SpecError
from skep.model.authoring import build_workflow
from skep.model.node import NodeInfo
from skep.model.spec import WorkflowSpec
from skep.testing import run

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
def fail() -> None:
    raise ValueError("no")


@task
def twice(x: int) -> int:
    return x * 2


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def tomorrow() -> int:
    if context.attempt < 4:
        context.snooze("1d")
    return context.attempt


@task
async def hold(name: str, seconds: float) -> list[str]:
    async with context.lock("shared"):
        context.log(name, "has it")
        await asyncio.sleep(seconds)
    order = [*context.state.get("order", []), name]
    context.state.put("order", order)
    return order


@task
def clash() -> None:
    with context.lock("shared"):
        pass


@task
def save() -> list[int]:
    seen = [*context.checkpoint.load([]), context.attempt]
    context.checkpoint.save(seen)
    if len(seen) < 3:
        raise ValueError("again")
    return seen


@task
def leave() -> None:
    sys.exit(3)


@task(isolation="process")
def isolated() -> str:
    return "here"


@task
def use(key: str) -> str:
    context.log(key)
    return key


@workflow
def doubled(numbers: list[int]) -> Any:
    return total(twice.map(numbers))


@workflow
def release(repo: str = "main") -> Any:
    made = shell(f"make {repo}", name="build")
    return shell(["ship", made], name="ship", needs=[made], requires=["network"])


def spec(**tasks: Any) -> WorkflowSpec:
    """A workflow of the functions above: name to task, `does` is the function."""
    for name, one in tasks.items():
        if "does" in one:
            one["python"] = f"{__file__}:{one.pop('does').name}"
        tasks[name] = one
    return build_workflow({"name": "w", "tasks": tasks})


def when(view: Any, name: str) -> tuple[int | None, int | None]:
    """When a task started and ended, in virtual milliseconds."""
    (row,) = (row for row in view.tasks if row.name == name)
    return row.started_ms and row.started_ms - view.accepted_ms, row.finished_ms and row.finished_ms - view.accepted_ms


# -- what it takes and gives


def test_a_workflow_function() -> None:
    view = run(doubled, {"numbers": [1, 2, 3]})
    assert (view.state, view.output) == ("succeeded", 12)
    assert [(one.name, one.output) for one in view.tasks][:2] == [("twice", [2, 4, 6]), ("twice[0]", 2)]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(f"name: w\ntasks:\n  a: {{python: '{__file__}:twice', with: {{x: 21}}}}\n")
    assert run(file).output == run(str(file)).output == {"a": 42}


def test_what_is_no_workflow() -> None:
    with pytest.raises(SpecError, match="expected a workflow, a WorkflowSpec or the path of a YAML file, got int"):
        run(3)  # type: ignore[arg-type]


def test_inputs_are_checked() -> None:
    with pytest.raises(SpecError, match="numbers"):
        run(doubled)


def test_a_failure_is_for_the_test_to_see() -> None:
    view = run(spec(a={"does": fail}, b={"does": nap, "with": {"seconds": 1}, "needs": ["a"]}))
    assert (view.state, view.output, [one.state for one in view.tasks]) == ("failed", None, ["failed", "skipped"])
    assert view.tasks[0].error["type"] == "ValueError"
    assert "in fail" in view.tasks[0].error["traceback"]


async def test_in_a_test_that_is_a_coroutine() -> None:
    assert run(doubled, {"numbers": [1]}).output == 2


def test_it_is_public() -> None:
    assert skep.testing.run is run


# -- time


@pytest.mark.parametrize("seconds", [0.0005, 3_600, 86_400 * 20])
def test_sleep_takes_no_time(seconds: float) -> None:
    began = time.monotonic()
    view = run(spec(a={"does": nap, "with": {"seconds": seconds}}))
    assert view.state == "succeeded"
    assert when(view, "a") == (0, int(seconds * 1000))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("chance", "waited_ms"), [(0.5, 15 * HOUR_MS), (0.0, 12 * HOUR_MS), (1.0, 18 * HOUR_MS)])
def test_back_off(chance: float, waited_ms: int) -> None:
    retries = {"limit": 4, "delay": "1h", "max_delay": "10h", "jitter": 0.2}
    view = run(spec(a={"does": fail, "retries": retries}), chance=chance)
    assert view.tasks[0].attempts == 5
    assert when(view, "a") == (waited_ms, waited_ms)


def test_snoozes() -> None:
    view = run(spec(a={"does": tomorrow}))
    assert (view.output, when(view, "a")) == ({"a": 4}, (3 * DAY_MS, 3 * DAY_MS))


@pytest.mark.parametrize("limit", [{"timeout": "6h"}, {"deadline": "6h"}])
def test_time_limits_of_tasks(limit: dict[str, str]) -> None:
    view = run(spec(a={"does": nap, "with": {"seconds": 86_400}, **limit}))
    assert view.state == "failed"
    assert when(view, "a") == (0, 6 * HOUR_MS)


def test_time_limit_of_a_run() -> None:
    made = build_workflow(
        {"name": "w", "timeout": "2h", "tasks": {"a": {"python": f"{__file__}:nap", "with": {"seconds": 1e6}}}}
    )
    view = run(made)
    assert (view.state, view.reason, when(view, "a")) == ("failed", "timeout", (0, 2 * HOUR_MS))


def test_locks_are_waited_for() -> None:
    view = run(spec(**{f"t{at}": {"does": hold, "with": {"name": f"t{at}", "seconds": 60}} for at in range(3)}))
    assert view.state == "succeeded", [one.error for one in view.tasks]
    assert view.tasks[2].output == ["t0", "t1", "t2"]
    assert [when(view, f"t{at}")[1] for at in range(3)] == [60_000, 120_000, 180_000]


def test_locks_have_a_time_limit() -> None:
    """`context.lock(limit=10m)` is freed though its holder goes on."""
    view = run(
        spec(
            a={"does": hold, "with": {"name": "a", "seconds": 3_600}},
            b={"does": hold, "with": {"name": "b", "seconds": 1}},
        )
    )
    assert when(view, "b")[1] == 10 * 60_000 + 1_000


def test_a_plain_function_cannot_wait_for_a_lock() -> None:
    first = {"does": nap, "with": {"seconds": 1}}
    view = run(spec(a={"does": hold, "with": {"name": "a", "seconds": 10}}, b=first, c={"does": clash, "needs": ["b"]}))
    assert view.tasks[2].error["type"] == "SkepError"
    assert "only `async with context.lock(…)`" in view.tasks[2].error["message"]


def test_the_same_every_time() -> None:
    made = spec(
        **{f"t{at}": {"does": hold, "with": {"name": f"t{at}", "seconds": at % 3}} for at in range(10)},
        a={"does": save, "retries": 3},
        b={"does": fail, "retries": {"limit": 3, "delay": "7m"}, "on_failure": "continue"},
    )
    first = run(made)
    assert first.state == "succeeded", [one.error for one in first.tasks]
    assert first == run(made) == run(made)


@pytest.mark.parametrize("limit", ["30d", "1h"])
def test_a_run_that_never_ends(limit: str) -> None:
    with pytest.raises(TimeoutError, match=r"of virtual time; unfinished: a \(running\), b \(waiting\)"):
        run(spec(a={"does": nap, "with": {"seconds": 1e9}}, b={"does": fail, "needs": ["a"]}), limit=limit)


def test_a_run_that_turns_in_circles() -> None:
    async def circle() -> None:
        for _ in range(10**9):
            await asyncio.sleep(1e-7)

    with pytest.raises(TimeoutError, match="real seconds"):
        run(spec(a={"does": fail}), stubs={"a": circle}, real_limit=0.2)


# -- stubs


def boom(**_: Any) -> None:
    raise KeyError("stub")


async def slow(x: int) -> int:
    await asyncio.sleep(3_600)
    return -x


@pytest.mark.parametrize(
    ("stub", "output"),
    [
        ({"twice": 5}, 10),
        ({"twice[1]": 100}, 102),
        ({"twice": lambda x: x + 1}, 5),
        ({"twice": slow}, -3),
        ({"total": None}, None),
    ],
)
def test_stubs_of_functions(stub: dict[str, Any], output: Any) -> None:
    assert run(doubled, {"numbers": [1, 2]}, stubs=stub).output == output


def test_a_stub_may_fail() -> None:
    view = run(doubled, {"numbers": [1]}, stubs={"twice": boom})
    assert view.tasks[1].error["type"] == "KeyError"


def test_shell_tasks() -> None:
    commands: list[Any] = []

    def ship(command: Any) -> dict[str, bool]:
        commands.append(command)
        return {"shipped": True}

    view = run(release, {"repo": "a b"}, stubs={"build": "made", "ship": ship})
    assert view.output == {"shipped": True}
    assert [list(command) for command in commands] == [["ship", "made"]]


def test_shell_tasks_are_never_run() -> None:
    view = run(release)
    assert view.tasks[0].error["type"] == "Stub"
    assert "stubs={'build': …}" in view.tasks[0].error["message"]


def test_stubs_for_nobody() -> None:
    with pytest.raises(RefusedError, match=r"stubs for biuld: the workflow has no such task, but build, ship"):
        run(release, stubs={"biuld": 1})


# -- placement


def test_placement() -> None:
    nodes = [
        NodeInfo("small", slots=4, cpu_milli=4_000),
        NodeInfo("large", slots=4, cpu_milli=4_000, capabilities=("cpu", "gpu")),
    ]
    made = spec(a={"does": twice, "with": {"x": 1}, "requires": ["gpu"]}, b={"does": twice, "with": {"x": 1}})
    view = run(made, nodes=nodes)
    assert view.tasks[0].node == "large"
    assert view.state == "succeeded"


def test_slots_bound_what_runs_at_once() -> None:
    made = spec(**{f"t{at}": {"does": nap, "with": {"seconds": 3_600}} for at in range(4)})
    view = run(made, nodes=[NodeInfo("one", slots=2, cpu_milli=2_000)])
    assert max(when(view, f"t{at}")[1] or 0 for at in range(4)) == 2 * HOUR_MS


def test_what_no_node_can_run() -> None:
    with pytest.raises(RefusedError, match=r"lacks gpu"):
        run(spec(a={"does": fail, "requires": ["gpu"]}), nodes=[NodeInfo("small")])


def test_by_default_everything_can_run() -> None:
    demands = {"requires": ["gpu", "zone=eu"], "resources": {"memory": "4TB", "cpu": 500, "vram": "1TB"}}
    assert run(spec(a={"does": twice, "with": {"x": 2}, **demands})).output == {"a": 4}


# -- the rest of what tasks do


@pytest.mark.parametrize(("does", "kind"), [(leave, "SystemExit"), (fail, "ValueError")])
def test_what_a_task_raises_ends_only_the_task(does: Callable[..., Any], kind: str) -> None:
    assert run(spec(a={"does": does})).tasks[0].error["type"] == kind


def test_isolated_tasks_run_here() -> None:
    assert run(spec(a={"does": isolated, "isolation": "process"})).output == {"a": "here"}


def test_checkpoints() -> None:
    assert run(spec(a={"does": save, "retries": 2})).output == {"a": [1, 2, 3]}


def test_secrets() -> None:
    view = run(spec(a={"does": use, "with": {"key": "${{ secrets.key }}"}}), secrets={"key": "hunter22"})
    assert view.output == {"a": "***"}


# -- what waits for somebody else


@workflow
def one(name: str) -> Any:
    return shell(f"make {name}", name="make")


@workflow
def launch() -> Any:
    asked = approval("Ship it?", deadline="9d", default="approve", name="ask")
    built = one.map(["docs", "wheel"])
    page = http("https://x.org/", name="page", needs=asked)
    told = wait_for("deployed", key="k", timeout="1d", name="told", on_failure="continue", needs=page)
    return {"by": asked.by, "built": built, "page": page, "told": told}


def test_waits_are_over_when_their_time_is() -> None:
    view = run(launch, stubs={"make": lambda command: command, "page": {"status": 200}})
    assert view.output == {"by": "deadline", "built": ["make docs", "make wheel"], "page": {"status": 200}, "told": None}
    assert view.finished_ms is not None
    assert view.finished_ms - view.accepted_ms >= 10 * DAY_MS


def test_stubs_answer_for_people_children_and_events() -> None:
    seen: list[Any] = []

    def note(call: Any) -> Any:
        seen.append(call)
        return {"by": "Ada"}

    view = run(launch, stubs={"ask": note, "one[0]": note, "one[1]": 7, "page": note, "told": note})
    assert view.output == {"by": "Ada", "built": [{"by": "Ada"}, 7], "page": {"by": "Ada"}, "told": {"by": "Ada"}}
    assert sorted(seen, key=repr) == [
        {"event": "deployed", "key": "k"},
        {"message": "Ship it?", "deadline_ms": 9 * DAY_MS, "default": "approve"},
        {"url": "https://x.org/"},
        {"workflow": "one", "with": {"name": "docs"}},
    ]


def test_a_stored_workflow_has_a_stub_or_is_not_there() -> None:
    @workflow
    def flow() -> Any:
        return uses("build@3", {"x": 1}, name="child")

    assert run(flow, stubs={"child": lambda call: call}).output == {"workflow": "build@3", "with": {"x": 1}}
    view = run(flow)
    assert (view.state, view.tasks[0].error["type"]) == ("failed", "Refused")


def test_a_request_without_a_stub_fails() -> None:
    @workflow
    def flow() -> Any:
        return http("https://x.org/")

    view = run(flow)
    assert view.tasks[0].error["type"] == "Stub"
    assert "commands and requests are not made in a test" in view.tasks[0].error["message"]


def test_what_waits_for_somebody_says_for_whom() -> None:
    tasks = {"ask": {"approval": {"message": "Go?"}}, "hear": {"wait_for": {"event": "go"}}}
    with pytest.raises(TimeoutError) as caught:
        run(build_workflow({"name": "w", "tasks": tasks}), limit="1d")
    assert "ask (waits for a person: give it a stub), hear (waits for an event: give it a stub)" in str(caught.value)
