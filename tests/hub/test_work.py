"""Nodes: how they join, take, report, and what the code of their tasks may ask for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skep.engine.protocol import NOT_FOUND, OK, REFUSED, SUPERSEDED, WAITING
from skep.errors import ConflictError, SupersededError
from skep.hub import work as work_module
from skep.model.node import ErrorInfo, Grant, Held, HeldLock, LockGrant, LogChunk, NodeInfo, Outcome, Progress
from skep.testing.stage import HOLD, Failed, ScriptedNode, Stage, counted

RUN: dict[str, Any] = {"run": "true"}


async def held(stage: Stage, *names: str, **task: Any) -> tuple[ScriptedNode, list[Grant]]:
    """A node on which tasks of these names are under way."""
    node = await stage.node(script=dict.fromkeys(names, HOLD))
    await stage.submit(dict.fromkeys(names, RUN | task))
    await stage.go()
    return node, [node.held[name] for name in names]


def outcome(grant: Grant, result: str = "succeeded", **given: Any) -> Outcome:
    return Outcome(grant.run, grant.task, grant.token, grant.attempt, result, **given)


async def test_an_older_incarnation_is_refused(stage: Stage) -> None:
    work = stage.hub.work
    assert await work.register(NodeInfo("n", 2), beats=True) == OK
    assert await work.register(NodeInfo("n", 2), beats=True) == OK
    assert await work.register(NodeInfo("n", 1), beats=True) == REFUSED


async def test_a_node_is_called_when_there_is_something_to_take(stage: Stage) -> None:
    calls: list[str] = []
    stop = stage.hub.work.listen("n", lambda: calls.append("n"))
    await stage.node()
    await stage.submit({"a": RUN})
    await stage.pass_(stage.load, stage.place)
    assert calls == ["n"]
    stop()
    await stage.go()
    assert calls == ["n"]


async def test_outcomes_are_answered_in_their_order(stage: Stage) -> None:
    _, (a, b, c) = await held(stage, "a", "b", "c")
    stale = msgspec.structs.replace(outcome(a), token=a.token._replace(n=999))
    reported = [outcome(b, "failed", error=ErrorInfo("X", "")), stale, outcome(a), outcome(c, "snoozed", delay_ms=5)]
    assert await stage.hub.work.report(reported) == [OK, SUPERSEDED, OK, OK]
    assert await stage.hub.work.report(reported) == [OK, SUPERSEDED, OK, OK], "a repeat gets the first answer"


async def test_a_cancelled_attempt_is_not_tried_again(stage: Stage) -> None:
    _, (a,) = await held(stage, "a", retries=3)
    assert await stage.hub.work.report([outcome(a, "cancelled", error=ErrorInfo("Cancelled", "by hand"))]) == [OK]
    await stage.go(60_000)
    assert await stage.states(a.run) == {"a": "cancelled"}


@pytest.mark.parametrize(("kind", "reason"), [("Timeout", "timeout"), ("Deadline", "deadline"), ("ValueError", "")])
async def test_the_reason_of_a_failure_is_recorded(stage: Stage, kind: str, reason: str) -> None:
    await stage.node(script={"a": Failed(kind)})
    view = await stage.run({"a": RUN})
    assert (view.tasks[0].state, view.tasks[0].reason or "") == ("failed", reason)


async def test_a_timeout_may_be_tried_again_and_a_deadline_may_not(stage: Stage) -> None:
    node = await stage.node(script={"a": Failed("Timeout"), "b": Failed("Deadline")})
    retries = {"limit": 2, "delay": 0}
    await stage.submit({name: RUN | {"retries": retries, "on_failure": "continue"} for name in ("a", "b")})
    await stage.go()
    await stage.go(10)
    assert sorted(node.started) == ["a", "a", "a", "b"]


async def test_checkpoints_outlive_the_attempt_and_are_fenced(stage: Stage) -> None:
    node, (first,) = await held(stage, "a", retries={"limit": 1, "delay": 0})
    work = stage.hub.work
    where = (first.run, first.task)
    assert await work.load_checkpoint(*where, first.token) is None
    await work.save_checkpoint(*where, first.token, b"half")
    await node.finish("a", Failed())
    await stage.go()
    second = node.held["a"]
    assert await work.load_checkpoint(*where, second.token) == b"half"
    with pytest.raises(SupersededError):
        await work.save_checkpoint(*where, first.token, b"late")


async def test_shared_state_is_of_the_namespace_and_compared_before_it_is_set(stage: Stage) -> None:
    work = stage.hub.work
    _, (a, b) = await held(stage, "a", "b")
    assert await work.get_state(a.run, a.task, a.token, "k") is None
    assert await work.put_state(a.run, a.task, a.token, "k", b"1", 0, 0) == 1
    assert await work.get_state(b.run, b.task, b.token, "k") == (b"1", 1)
    with pytest.raises(ConflictError):
        await work.put_state(b.run, b.task, b.token, "k", b"2", 0, 0)
    assert await work.put_state(b.run, b.task, b.token, "k", b"2", 50, 1) == 2
    stage.clock.advance(51)
    assert await work.get_state(a.run, a.task, a.token, "k") is None


async def test_a_lock_inside_a_task_is_the_same_as_a_lock_of_a_task(stage: Stage) -> None:
    work = stage.hub.work
    node, (a, b) = await held(stage, "a", "b")
    ask: dict[str, Any] = {"units": 1_000_000, "hold_ms": 60_000, "wait": True}
    assert await work.claim(a.run, a.task, a.token, "db", **ask) == OK
    assert await work.claim(b.run, b.task, b.token, "db", **ask) == WAITING
    await stage.submit({"c": RUN | {"locks": ["db"]}})
    await stage.go()
    assert "c" not in node.started
    await work.release(a.run, a.token, "db")
    entries = await work.take("n", 1, node._seen, 10)
    assert [entry.entry for entry in entries] == [LockGrant(b.token, "lock:default:db")]
    await node.finish("b")
    await stage.go()
    assert "c" in node.started
    assert await work.claim(b.run, b.task, b.token, "db", **ask) == SUPERSEDED


async def test_logs_are_kept_before_they_are_told_and_progress_is_told_alone(stage: Stage) -> None:
    work = stage.hub.work
    _, (a,) = await held(stage, "a")
    told: list[Any] = []
    work.on_log = told.extend
    work.on_progress = told.extend
    chunk = LogChunk(a.run, a.task, 1, "out", 0, 5, b"hello\n")
    step = Progress(a.run, a.task, 1, 1.0, 2.0)
    await work.log([chunk])
    await work.progress([step])
    assert told == [chunk, step]
    assert await stage.record.logs(a.run, a.task) == [chunk]


async def test_an_attempt_whose_process_died_for_another_uses_up_no_retry(stage: Stage) -> None:
    node, (a,) = await held(stage, "a")
    assert await stage.hub.work.report([outcome(a, "lost", error=ErrorInfo("WorkerDied", "killed"))]) == [OK]
    await stage.go()
    again = node.held["a"]
    assert (again.attempt, again.failures) == (2, 0)
    await node.finish("a", 1)
    await stage.go()
    assert await stage.states(a.run) == {"a": "succeeded"}


async def test_the_position_of_a_report_is_reached_when_the_record_has_it(stage: Stage) -> None:
    work = stage.hub.work
    _, (a,) = await held(stage, "a")
    marks: list[int] = []
    stop = work.on_recorded(marks.append)
    await work.report([outcome(a)])
    position = work.position()
    assert position == stage.engine.core.n
    assert work.mark < position
    await stage.go()
    assert work.mark >= position
    assert marks[-1] == work.mark
    stop()
    work.recorded(work.mark + 1)
    assert marks[-1] == work.mark - 1


async def test_progress_is_kept_until_the_attempt_ends(stage: Stage) -> None:
    work = stage.hub.work
    _, (a, b) = await held(stage, "a", "b")
    steps = [Progress(a.run, task.task, 1, done, 2.0) for task, done in ((a, 1.0), (b, 1.0), (a, 2.0))]
    await work.progress(steps)
    assert work.progress_of(a.run) == {a.task: steps[2], b.task: steps[1]}
    await work.report([outcome(a)])
    assert work.progress_of(a.run) == {b.task: steps[1]}
    work.forget(a.run)
    assert work.progress_of(a.run) == {}


async def test_progress_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "MOST_SHOWN", 2)
    work = stage.hub.work
    await work.progress([Progress("r", task, 1, 1.0, 2.0) for task in (1, 2, 3)])
    await work.progress([Progress("r", 1, 1, 2.0, 2.0)])
    assert sorted(work.progress_of("r")) == [1, 2]
    assert work.progress_of("r")[1].done == 2.0
    work.forget("r")
    await work.progress([Progress("s", 1, 1, 1.0, 2.0)])
    assert sorted(work.progress_of("s")) == [1]


async def test_what_a_node_presents_is_handed_on_with_the_keys_of_its_locks(stage: Stage) -> None:
    presented: list[Any] = []

    class Presenter:
        async def present(self, *given: Any, more: bool = False) -> None:
            presented.append((*given, more))

    work = stage.hub.work
    _, (a,) = await held(stage, "a")
    work.presenter = Presenter()
    ended = outcome(a)
    await work.present("n", 1, [Held(a, (HeldLock("db", 5, 100),)), Held(a)], [ended])
    locks = (HeldLock("lock:default:db", 5, 100),)
    assert presented == [("n", 1, [Held(a, locks), Held(a)], [ended], False)]
    await work.present("n", 1, [], [], more=True)
    assert presented[1] == ("n", 1, [], [], True), "also when it brings nothing"


async def test_a_node_is_known_by_its_incarnation_until_it_leaves(stage: Stage) -> None:
    work = stage.hub.work
    await work.register(NodeInfo("n", 2), beats=True)
    live = await work.live("n")
    assert live is not None
    assert live.info.incarnation == 2
    assert await work.live("m") is None
    assert await work.beat("n", 2, [], 0) == OK
    assert await work.drain("n") == OK
    assert await work.lose("n", 2)
    assert not await work.lose("n", 2)
    assert await work.live("n") is None
    assert await work.beat("n", 2, [], 0) == NOT_FOUND
    await stage.go()
    assert counted(stage.told)["lost"] == 1
