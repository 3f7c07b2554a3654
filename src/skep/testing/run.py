"""`run`: a whole workflow in a test, in memory and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any, Final, Protocol

import msgspec

from skep.errors import RefusedError, SpecError
from skep.model.node import NodeInfo
from skep.model.run import MAX_TASKS, RunView, TaskView
from skep.model.spec import PARKED, TaskSpec, WorkflowSpec
from skep.model.state import TaskState
from skep.model.units import format_duration, parse_duration_ms
from skep.node.executors.inline import InlineExecutor
from skep.router.fit import unroutable
from skep.sdk.yaml import load_file
from skep.testing.time import VirtualLoop
from skep.upkeep.place import requirement_of
from skep.wiring import Embedded

RUN_ID: Final = "00000000-0000-7000-8000-000000000000"
"""The same in every test."""
PLENTY: Final = 1 << 60


class HasSpec(Protocol):
    """A `@workflow`."""

    @property
    def spec(self) -> WorkflowSpec: ...


def run(
    workflow: WorkflowSpec | HasSpec | str | PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    stubs: Mapping[str, Any] | None = None,
    nodes: Sequence[NodeInfo] | None = None,
    secrets: Mapping[str, str] | None = None,
    chance: float = 0.5,
    limit: str | float = "30d",
    real_limit: float = 60.0,
) -> RunView:
    """Runs a workflow to its end and gives what became of it; whether that is success is for the test to say.

        view = run(report, {"urls": ["a"]}, stubs={"fetch": "a page", "publish": lambda command: {"ok": True}})
        assert view.state == "succeeded" and view.output == …

    `workflow`: a `@workflow`, a spec, or the path of a YAML file. Nothing is stored, and no time passes: sleeps, back-off,
    snoozes, timeouts and deadlines of any length are over at once, and in the same order every time. Only plain functions
    that really block (`time.sleep`) do so here too.

    `stubs`: by the name of a task, or of one in a child run (`fetch`, which also stands for all of its map children, or
    `fetch[0]`): what it gives in place of being run; a function is called with the task's arguments, with the command, or with
    the request. Those two are never made: one without a stub fails. What is parked (`approval`, `uses`, `wait_for`) waits as it
    would, unless it has a stub. `nodes`: to test placement; by default there is one node that can run everything.
    `chance`: from 0 to 1, where in its range the jitter of back-off falls. `limit` of virtual time and `real_limit` in seconds
    end a run that never would: TimeoutError.

    Raises SpecError, RefusedError (no node can run a task; a stub for no task), TimeoutError.
    """
    spec = _spec(workflow)
    stage = _Stage(spec, stubs or {}, nodes, secrets or {}, chance, parse_duration_ms(limit))

    def play() -> RunView:
        return stage.play(inputs, real_limit)

    if not _on_a_loop():
        return play()
    with ThreadPoolExecutor(1) as aside:  # the test is a coroutine and has a loop of its own
        return aside.submit(play).result()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _spec(workflow: WorkflowSpec | HasSpec | str | PathLike[str]) -> WorkflowSpec:
    if isinstance(workflow, WorkflowSpec):
        return workflow
    if isinstance(workflow, str | PathLike):
        return load_file(str(workflow))
    spec = getattr(workflow, "spec", None)
    if not isinstance(spec, WorkflowSpec):
        raise SpecError.at("", f"expected a workflow, a WorkflowSpec or the path of a YAML file, got {type(workflow).__name__}")
    return spec


KINDS: Final = ("python", "isolated", "run", "http")


class _Stage:
    """One run, its nodes and its clock."""

    def __init__(
        self,
        spec: WorkflowSpec,
        stubs: Mapping[str, Any],
        nodes: Sequence[NodeInfo] | None,
        secrets: Mapping[str, str],
        chance: float,
        limit_ms: int,
    ) -> None:
        names = set(_names(spec))
        if unknown := sorted(name for name in stubs if name.partition("[")[0] not in names):
            raise RefusedError(f"stubs for {', '.join(unknown)}: the workflow has no such task, but {', '.join(sorted(names))}")
        self._spec = msgspec.structs.replace(spec, tasks=tuple(_stubbed(task, stubs) for task in spec.tasks))
        self._stubs = stubs
        self._nodes = list(nodes) if nodes is not None else [all_round(spec)]
        self._secrets = secrets
        self._chance = chance
        self._limit_ms = limit_ms

    def play(self, inputs: Mapping[str, Any] | None, real_limit: float) -> RunView:
        loop = VirtualLoop(real_limit)
        return loop.play(self._run(loop, inputs))

    async def _run(self, loop: VirtualLoop, inputs: Mapping[str, Any] | None) -> RunView:
        stage = Embedded(self._nodes, data=None, clock=loop, inline=self._executors, chance=lambda: self._chance)
        async with stage:
            runs = stage.hub.runs
            for name in runs.plan(self._spec).shape.class_names:
                if why := unroutable(requirement_of(name), self._nodes):
                    raise RefusedError(f"no node can run a task that needs {name}: {why}")
            await runs.submit(self._spec, inputs, run_id=RUN_ID)
            try:
                await runs.wait(RUN_ID, self._limit_ms / 1000)
            except TimeoutError:
                raise TimeoutError(_unfinished(await runs.view(RUN_ID), self._limit_ms)) from None
            return await runs.view(RUN_ID)

    def _executors(self, info: NodeInfo) -> list[InlineExecutor]:
        return [InlineExecutor(name, stubs=self._stubs, secrets=self._secrets) for name in KINDS]


def _names(spec: WorkflowSpec) -> Iterator[str]:
    """Of its tasks, and of those in the workflows that are written out in it."""
    for task in spec.tasks:
        yield task.name
        if child := _child(task):
            yield from _names(child)


def _child(task: TaskSpec) -> WorkflowSpec | None:
    """The workflow that is written out in it, if one is."""
    if task.executor != "uses" or not isinstance(task.call, dict) or "definition" not in task.call:
        return None
    return msgspec.convert(task.call["definition"], WorkflowSpec)


def _stubbed(task: TaskSpec, stubs: Mapping[str, Any]) -> TaskSpec:
    """What is parked and has a stub becomes a request, which the stub answers; so do such tasks in child runs."""
    stubbed = any(name.partition("[")[0] == task.name for name in stubs)
    child = _child(task)
    if task.executor not in PARKED or not (stubbed or child):
        return task
    if not stubbed and child is not None:
        changed = msgspec.structs.replace(child, tasks=tuple(_stubbed(one, stubs) for one in child.tasks))
        return msgspec.structs.replace(task, call={"definition": msgspec.json.decode(changed.encode())})
    assert isinstance(task.call, dict)
    call = {"workflow": child.name} if child is not None else task.call
    with_ = {"with": task.args} if task.executor == "uses" else {}
    return msgspec.structs.replace(task, executor="http", call={**call, **with_}, args=None, timeout_ms=0)


def all_round(spec: WorkflowSpec) -> NodeInfo:
    """A node that can run every task of the workflow, any number of them at once."""
    words = sorted({word for task in spec.tasks for word in task.requires})
    return NodeInfo("test", capabilities=tuple(words), slots=MAX_TASKS, cpu_milli=PLENTY, memory=PLENTY, vram=PLENTY)


def _unfinished(view: RunView, limit_ms: int) -> str:
    left = [f"{task.name} ({_standing(task)})" for task in view.tasks if not TaskState[task.state.upper()].ended]
    shown = ", ".join(left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
    return f"the run has not ended after {format_duration(limit_ms)} of virtual time; unfinished: {shown}"


def _standing(task: TaskView) -> str:
    """Its state; for what is parked, for whom it waits."""
    waits = {"approval": "waits for a person", "event": "waits for an event", "child": "waits for its child run"}
    if task.state == TaskState.PARKED.label and task.reason in waits:
        return f"{waits[task.reason]}: give it a stub"
    return task.state
