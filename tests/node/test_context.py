"""The context of running tasks, through a whole engine: in coroutines, in threads and in worker processes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skep.errors import SkepError
from skep.model.authoring import build_workflow
from skep.model.node import NodeInfo
from skep.model.run import RunView
from skep.node.context import current_context
from skep.sdk.context import context
from skep.wiring import Embedded

CODE = """
import asyncio
from skep import context
from skep.errors import ConflictError

def say():
    context.log("one", 2)
    context.log("nul \\0 and \\ud800")
    context.progress(1, 4, "a quarter")
    return [context.run_id, context.task_name, context.attempt, context.token]

def again():
    seen = context.checkpoint.load(default=[])
    context.checkpoint.save([*seen, context.attempt])
    if context.attempt < 3:
        raise ValueError("once more")
    return context.checkpoint.load()

def later():
    if context.attempt == 1:
        context.snooze("1ms")
    return context.attempt

def count():
    with context.lock("counter"):
        value, version = context.state.get_versioned("n", 0)
        context.state.put("n", value + 1, expect=version)

def lose():
    context.state.put("key", "mine")
    try:
        context.state.put("key", "theirs", expect=0)
    except ConflictError as error:
        return [context.state.get("key"), context.state.get("other", "none"), str(error)]

def nested():
    with context.lock("a"):
        with context.lock("a"):
            pass
        context.log("inside")
        context.state.put("holds", True)

def bad():
    try:
        context.checkpoint.save(object())
    except TypeError as error:
        return str(error)

def unbounded():
    found = []
    for keep in (context.checkpoint.save, lambda value: context.state.put("x", value)):
        try:
            keep({"loss": [None, float("nan")]})
        except TypeError as error:
            found.append(str(error))
    return found

def endless():
    return {"a": None, "loss": float("inf")}

async def unbounded_async(): return unbounded()
async def endless_async(): return endless()
async def say_async(): return say()
async def again_async(): return again()
async def later_async(): return later()
async def lose_async(): return lose()
async def bad_async(): return bad()
async def nested_async():
    async with context.lock("a"), context.lock("a"):
        context.log("inside")
async def count_async():
    async with context.lock("counter"):
        value, version = context.state.get_versioned("n", 0)
        await asyncio.sleep(0)
        context.state.put("n", value + 1, expect=version)
"""


class Stage:
    """An engine with one node, and the functions above in a file."""

    def __init__(self, embedded: Embedded, file: Path) -> None:
        self.embedded = embedded
        self.file = file
        self.progress: list[Any] = []
        embedded.hub.work.on_progress = self.progress.extend

    async def run(self, **tasks: dict[str, Any]) -> RunView:
        for task in tasks.values():
            task["python"] = f"{self.file}:{task['python']}"
        runs = self.embedded.hub.runs
        run = await runs.submit(build_workflow({"name": "w", "tasks": tasks}))
        await runs.wait(run, 20)
        return await runs.view(run)

    async def log(self, view: RunView, task: int = 0) -> bytes:
        return b"".join(chunk.data for chunk in await self.embedded.record.logs(view.id, task))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    async with Embedded([NodeInfo("n1", slots=8, cpu_milli=2_000, memory=1 << 30)], data=None, base=tmp_path) as embedded:
        yield Stage(embedded, file)


@pytest.fixture(params=["coroutine", "thread", "process"])
def task(request: pytest.FixtureRequest) -> Any:
    """A task around one of the functions, as one of the three kinds."""

    def make(function: str, **more: Any) -> dict[str, Any]:
        kinds = {"coroutine": {"python": f"{function}_async"}, "process": {"python": function, "isolation": "process"}}
        return {**kinds.get(request.param, {"python": function}), **more}

    return make


async def test_who_and_where_and_what_it_says(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("say"))
    assert view.output["a"][:3] == [view.id, "a", 1]
    assert view.output["a"][3] == view.tasks[0].history[0].token
    assert await stage.log(view) == b"one 2\nnul \0 and ?\n"
    assert [(p.done, p.total, p.message) for p in stage.progress] == [(1.0, 4.0, "a quarter")]


async def test_a_checkpoint_lives_from_attempt_to_attempt(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("again", retries={"limit": 2, "delay": "1ms"}))
    assert view.output == {"a": [1, 2, 3]}


async def test_a_snooze_is_no_failure(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("later"))
    assert view.output == {"a": 2}
    assert [attempt.state for attempt in view.tasks[0].history] == ["snoozed", "succeeded"]


async def test_a_lock_keeps_others_out(stage: Stage, task: Any) -> None:
    """A put that finds another version than the one it read fails its task: here nobody comes between."""
    view = await stage.run(**{f"t{at}": task("count") for at in range(12)})
    assert view.state == "succeeded", [one.error for one in view.tasks]
    found = await stage.embedded.record.get_state("default", "n", 0)
    assert found is not None
    assert found.value == b"12"


async def test_locks_nest(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("nested"), b=task("nested"))
    assert view.state == "succeeded", [one.error for one in view.tasks]


async def test_a_lost_race_for_shared_state(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("lose"))
    assert view.output["a"][:2] == ["mine", "none"]
    assert "expected 0" in view.output["a"][2]


async def test_what_is_saved_must_be_json(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("bad"))
    assert view.output["a"].startswith("a checkpoint must be JSON")


async def test_nan_and_infinity_are_neither_saved_nor_given(stage: Stage, task: Any) -> None:
    view = await stage.run(a=task("unbounded"))
    assert [text.partition(" must")[0] for text in view.output["a"]] == ["a checkpoint", "a shared value"]
    assert all("JSON has no nan" in text for text in view.output["a"])
    view = await stage.run(a=task("endless"))
    assert view.tasks[0].error is not None
    assert view.tasks[0].error["type"] == "Result"
    assert "JSON has no inf" in view.tasks[0].error["message"]


async def test_a_wait_for_a_lock_that_is_given_up_takes_nothing(stage: Stage) -> None:
    stage.file.write_text(
        stage.file.read_text()
        + """
async def holder():
    async with context.lock("a"):
        context.state.put("held", True)
        while not context.state.get("gave up"):
            await asyncio.sleep(0)

async def impatient():
    while not context.state.get("held"):
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(0.01):
            async with context.lock("a"):
                return "got it"
    except TimeoutError:
        context.state.put("gave up", True)
    while not context.state.get("third is done"):
        await asyncio.sleep(0)

async def third():
    while not context.state.get("gave up"):
        await asyncio.sleep(0)
    async with context.lock("a"):
        context.state.put("third is done", True)
"""
    )
    view = await stage.run(a={"python": "holder"}, b={"python": "impatient"}, c={"python": "third"})
    assert view.state == "succeeded", [one.error for one in view.tasks]
    assert view.output == {"a": None, "b": None, "c": None}


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # where it may be lost
async def test_a_task_that_waits_for_a_lock_can_be_stopped(stage: Stage) -> None:
    stage.file.write_text(
        stage.file.read_text()
        + """
def hold():
    with context.lock("a"):
        context.state.put("held", True)
        while not context.state.get("timed out"):
            pass

def wait():
    while not context.state.get("held"):
        pass
    with context.lock("a"):
        return "got it"

def tell():
    context.state.put("timed out", True)
"""
    )
    view = await stage.run(
        a={"python": "hold"},
        b={"python": "wait", "timeout": "50ms", "on_failure": {"run": "c"}},
        c={"python": "tell"},
    )
    assert [(one.name, one.state) for one in view.tasks] == [("a", "succeeded"), ("b", "failed"), ("c", "succeeded")]
    assert view.tasks[1].error["type"] == "Timeout"


async def test_an_attempt_that_has_lost_its_lease_changes_nothing(stage: Stage) -> None:
    stage.file.write_text(
        stage.file.read_text()
        + """
import threading
met, done = [], threading.Event()

def late():
    copy = context.checkpoint
    def work():
        global ended
        for n in range(10**9):
            try:
                copy.save(n)
            except BaseException as error:
                met.append(type(error).__name__)
                done.set()
                return
    threading.Thread(target=work).start()

def look():
    return [done.wait(10), met]
"""
    )
    view = await stage.run(a={"python": "late"}, b={"python": "look", "needs": ["a"]})
    assert view.output == {"b": [True, ["SupersededError"]]}


def test_there_is_no_context_outside_of_tasks() -> None:
    with pytest.raises(SkepError, match="only inside a running task"):
        current_context()
    with pytest.raises(SkepError, match="only inside a running task"):
        context.log("x")


async def test_it_follows_into_threads(stage: Stage) -> None:
    stage.file.write_text(
        stage.file.read_text()
        + """
async def aside():
    await asyncio.to_thread(context.log, "from a thread")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(context.checkpoint.save, 1))
        group.create_task(asyncio.sleep(0))
    return context.checkpoint.load()
"""
    )
    view = await stage.run(a={"python": "aside"})
    assert view.output == {"a": 1}
    assert await stage.log(view) == b"from a thread\n"
