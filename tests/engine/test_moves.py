"""The table of moves against an engine: every intent in every state either is in `MOVES` and happens, or changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from skep.clock import ManualClock
from skep.engine.memory import MemoryEngine
from skep.engine.protocol import OK, Adopt, Done, Expand, Failure, Park, Parked, Resolve, RunCommand, Settle, Snooze, Start
from skep.model.run import Policy, Token
from skep.model.state import MOVES, TaskState, drawing
from skep.testing.shapes import Driver, History, shape

T = TaskState
STALE = Token(1, 0)
DEADLINE_MS = 60_000
NO_VERSION = 99
Intent = Callable[[Driver, bool], Awaitable[object]]
"""Does one thing to task 1 of run `r`; told whether that runs. Answers the engine's word, if any."""


async def arrange(drive: Driver, state: TaskState | None) -> None:
    """Task 1 in a state; task 2 keeps the run alive; task 0 has ended, unless task 1 has to wait for it."""
    await drive.node(beats=True)
    await drive.node("m", beats=False)
    if state is None:
        return
    await drive.submit(shape([(0, 1)], 3, policies={1: Policy.CONTINUE}, deadlines_ms={1: DEADLINE_MS}))
    if state == T.WAITING:
        return
    await drive.settle(0)
    match state:
        case T.DELAYED:
            await drive.tell("snooze", Snooze("r", 1, await drive.start(1), 1_000))
        case T.RUNNING:
            await drive.start(1)
        case T.PARKED:
            await drive.wait(1)
        case T.CANCELLED:
            await drive.start(1)
            await drive.fail(1, cancelled=True)
        case T.SUCCEEDED | T.FAILED | T.SKIPPED:
            await drive.settle(1, state)


def place(kind: Callable[[int], object]) -> Intent:
    async def act(drive: Driver, running: bool) -> object:
        group = [task for group in await drive.engine.ready(9) for task in group.tasks if task.task == 1]
        return await drive.tell("place", kind(group[0].version if group else NO_VERSION))

    return act


def settle(state: TaskState) -> Intent:
    return place(lambda version: Settle("r", 1, version, state))


def leased(verb: str, item: Callable[[Token], object]) -> Intent:
    async def act(drive: Driver, running: bool) -> object:
        return await drive.tell(verb, item(drive.token(1) if running else STALE))

    return act


def resolve(state: TaskState, retry_in_ms: int = -1) -> Intent:
    async def act(drive: Driver, running: bool) -> object:
        return await drive.tell("resolve", Resolve("r", 1, "ann", state, retry_in_ms=retry_in_ms))

    return act


async def adopt(drive: Driver, running: bool) -> object:
    attempts = drive.history.runs["r"].attempts[1] if drive.history.runs else 0
    return await drive.adopt(Adopt("r", 1, attempts + 1, "n", "t", Token(0, 7)))


async def load(drive: Driver, running: bool) -> None:
    await drive.submit(drive.history.graphs.get("r") or shape([(0, 1)], 3))


async def promote(drive: Driver, running: bool) -> None:
    drive.clock.advance(1_000)
    await drive.engine.promote()


async def cancel(drive: Driver, running: bool) -> None:
    await drive.command("cancel")


async def lose_node(drive: Driver, running: bool) -> None:
    drive.clock.advance(20_000)
    await drive.engine.reap(10_000, 3)


async def lose_node_too_often(drive: Driver, running: bool) -> None:
    drive.clock.advance(20_000)
    await drive.engine.reap(10_000, 1)


def of_cancelled_run(intent: Intent) -> Intent:
    async def act(drive: Driver, running: bool) -> object:
        if running:
            await drive.command("cancel")
        return await intent(drive, running)

    return act


async def pass_deadline(drive: Driver, running: bool) -> None:
    drive.clock.advance(DEADLINE_MS)
    await drive.engine.reap(10 * DEADLINE_MS, 3)


async def retry(drive: Driver, running: bool) -> None:
    if "r" in drive.history.runs and drive.history.runs["r"].states[1].ended:
        await drive.settle(2)
    await drive.engine.retry([RunCommand("r", 1, tasks=(0,))])


INTENTS: dict[tuple[str, TaskState, str], Intent] = {
    ("load", T.WAITING, ""): load,
    ("place", T.RUNNING, "start"): place(lambda version: Start("r", 1, version, False, "n", "t", b"{}")),
    ("place", T.PARKED, "park"): place(lambda version: Park("r", 1, version, False, "approval")),
    ("place", T.PARKED, "expand"): place(lambda version: Expand("r", 1, version, False, 1)),
    **{("place", state, "settle"): settle(state) for state in T if state not in (T.RUNNING, T.PARKED)},
    ("complete", T.SUCCEEDED, ""): leased("complete", lambda token: Done("r", 1, token)),
    ("fail", T.FAILED, ""): leased("fail", lambda token: Failure("r", 1, token)),
    ("fail", T.READY, "retry"): leased("fail", lambda token: Failure("r", 1, token, retry_in_ms=0)),
    ("fail", T.READY, "lost"): leased("fail", lambda token: Failure("r", 1, token, lost=True)),
    ("fail", T.DELAYED, "retry later"): leased("fail", lambda token: Failure("r", 1, token, retry_in_ms=1)),
    ("fail", T.CANCELLED, ""): leased("fail", lambda token: Failure("r", 1, token, cancelled=True)),
    ("snooze", T.DELAYED, ""): leased("snooze", lambda token: Snooze("r", 1, token, 1)),
    ("park", T.PARKED, ""): leased("park", lambda token: Parked("r", 1, token, "event")),
    ("snooze", T.CANCELLED, "run cancelled"): of_cancelled_run(leased("snooze", lambda token: Snooze("r", 1, token, 1))),
    ("park", T.CANCELLED, "run cancelled"): of_cancelled_run(leased("park", lambda token: Parked("r", 1, token, "event"))),
    **{("resolve", state, ""): resolve(state) for state in T if state != T.DELAYED},
    ("resolve", T.READY, "retry"): resolve(T.FAILED, 0),
    ("resolve", T.DELAYED, "retry later"): resolve(T.FAILED, 1),
    ("adopt", T.RUNNING, ""): adopt,
    ("promote", T.READY, ""): promote,
    ("cancel", T.CANCELLED, ""): cancel,
    ("reap", T.READY, "node lost"): lose_node,
    ("reap", T.FAILED, "node lost too often"): lose_node_too_often,
    ("reap", T.FAILED, "deadline"): pass_deadline,
    ("reap", T.CANCELLED, "node lost, run cancelled"): of_cancelled_run(lose_node),
    ("retry", T.WAITING, ""): retry,
}
STATES: tuple[TaskState | None, ...] = (None, *TaskState)
EVENTS = {move[:3]: {other.event for other in MOVES if other[:3] == move[:3]} for move in MOVES}
ONLY_SOMETIMES = {
    "node lost": (T.RUNNING,),
    "node lost too often": (T.RUNNING,),
    "node lost, run cancelled": (T.RUNNING,),
    "deadline": (T.WAITING, T.DELAYED, T.READY, T.PARKED),
}
"""`reap` ends what runs and what waits for different reasons."""
OF_THEMSELVES = ("unblock", "join", "follow", "lapse")
ANSWERING = ("place", "complete", "fail", "snooze", "park", "resolve", "adopt")


@pytest.mark.parametrize("source", STATES, ids=lambda state: state.label if state is not None else "unknown")
@pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: f"{intent[0]} to {intent[1].label} {intent[2]}".rstrip())
async def test_only_what_is_in_the_table_moves(intent: tuple[str, TaskState, str], source: TaskState | None) -> None:
    clock = ManualClock()
    await try_move(Driver(MemoryEngine(clock, 1), clock), intent, source)


async def try_move(drive: Driver, intent: tuple[str, TaskState, str], source: TaskState | None) -> None:
    """An intent in a state, on a fresh engine of epoch 1: it is in the table and happens, or it changes nothing."""
    verb, target, how = intent
    await arrange(drive, source)
    before = await drive.states() if source is not None else ""
    told = len(drive.history.events)
    answer = await INTENTS[intent](drive, source == T.RUNNING)
    await drive.read()
    news = [event for event in drive.history.events[told:] if 1 in (event.task, *event.tasks) or event.kind == "loaded"]
    if (verb, source, target) in EVENTS and source in ONLY_SOMETIMES.get(how, (source,)):
        assert news[0].kind in EVENTS[verb, source, target]
        story = History(1)
        story.graphs = drive.history.graphs
        for event in drive.history.events[: news[0].n]:
            story.fold(event)
        assert story.runs["r"].states[1] == target
        assert verb not in ANSWERING or answer == OK
    else:
        assert not news
        assert verb not in ANSWERING or answer != OK
        assert source is None or (await drive.states()).split()[1] == before.split()[1]


def test_every_move_that_someone_calls_is_tried() -> None:
    called = {(verb, target) for verb, target, _ in INTENTS}
    assert {(move.verb, move.target) for move in MOVES if move.verb not in OF_THEMSELVES} <= called


def test_the_drawing_in_the_manual_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "lifecycle.md"
    assert f"```mermaid\n{drawing()}```" in page.read_text(encoding="utf-8")
