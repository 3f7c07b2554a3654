"""A node between a server and an executor that both do what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from skep.clock import ManualClock
from skep.engine.protocol import Answer
from skep.errors import NotFoundError, RecordError, SkepError, SupersededError
from skep.model.node import Call, ErrorInfo, Grant, LockGrant, LogChunk, NodeInfo, Outcome, Progress, Stop
from skep.model.run import EXCLUSIVE, Token
from skep.node import logs, node
from skep.node.attempt import Attempt, Host
from skep.node.node import Node


class FakeLink:
    """A server. `broken` names the methods that fail for now."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.inbox: list[tuple[int, Any]] = []
        self.outcomes: list[Outcome] = []
        self.chunks: list[LogChunk] = []
        self.shown: list[Progress] = []
        self.artifacts: list[bytes] = []
        self.answers: dict[str, Answer] = {"register": "ok", "claim": "ok"}
        self.broken: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.changed = asyncio.Event()
        self._listener: Callable[[], None] = lambda: None

    async def _heard(self, name: str) -> None:
        self.calls.append(name)
        self.changed.set()
        if name in self.broken:
            raise RecordError(f"{name} is broken")

    def send(self, *entries: Any) -> None:
        for entry in entries:
            self.inbox.append((len(self.inbox) + 1, entry))
        self._listener()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def register(self, info: NodeInfo, *, beats: bool) -> Answer:
        await self._heard("register")
        return self.answers["register"]

    async def retire(self, node: str, incarnation: int) -> None:
        await self._heard("retire")

    def listen(self, node: str, callback: Callable[[], None]) -> Callable[[], None]:
        self._listener = callback
        return lambda: self.calls.append("unlisten")

    async def take(self, node: str, incarnation: int, after: int, limit: int) -> list[Any]:
        await self._heard("take")
        if "retired" in self.broken:
            raise NotFoundError("who?")
        return [(number, entry) for number, entry in self.inbox if number > after][:limit]

    async def report(self, outcomes: Sequence[Outcome]) -> list[Answer]:
        await self._heard("report")
        self.outcomes += outcomes
        return ["superseded" if outcome.token.n == 99 else "ok" for outcome in outcomes]

    async def log(self, chunks: Sequence[LogChunk]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await self._heard("log")
        self.chunks += chunks

    async def progress(self, items: Sequence[Progress]) -> None:
        await self._heard("progress")
        self.shown += items

    async def put_artifact(self, run: str, data: bytes) -> str:
        await self._heard("put_artifact")
        self.artifacts.append(data)
        return f"artifact-{len(self.artifacts)}"

    async def get_artifact(self, artifact: str) -> bytes:
        return self.artifacts[0]

    async def claim(self, run: str, task: int, token: Token, key: str, units: int, hold_ms: int, wait: bool) -> Answer:
        await self._heard(f"claim {key}")
        return self.answers["claim"]

    async def release(self, run: str, token: Token, key: str) -> None:
        await self._heard(f"release {key}")

    async def load_checkpoint(self, run: str, task: int, token: Token) -> bytes | None:
        return b"1"

    async def save_checkpoint(self, run: str, task: int, token: Token, data: bytes) -> None: ...

    async def get_state(self, run: str, task: int, token: Token, key: str) -> tuple[bytes, int] | None:
        return None

    async def put_state(
        self, run: str, task: int, token: Token, key: str, value: bytes, ttl_ms: int, expect: int | None
    ) -> int:
        return 1


class FakeExecutor:
    """Holds attempts until the test ends them."""

    name = "python"

    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.stops: list[tuple[int, str | None]] = []
        self.trouble: Exception | None = None

    async def open(self, host: Host) -> None: ...

    async def close(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def start(self, attempt: Attempt) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.attempts[attempt.grant.token.n] = attempt

    def stop(self, attempt: Attempt) -> None:
        self.stops.append((attempt.grant.token.n, attempt.stopped))


CALL = msgspec.json.encode(Call("python", "m:f"))


def grant(n: int, call: bytes = CALL, timeout_ms: int = 0) -> Grant:
    return Grant("run-1", n, f"t{n}", 1, Token(7, n), call, timeout_ms)


@pytest.fixture
async def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
async def opened(link: FakeLink, executor: FakeExecutor) -> AsyncIterator[Node]:
    made = Node(NodeInfo("n1"), link, [executor], ManualClock())
    await made.open()
    yield made
    await made.close()


async def begun(link: FakeLink, executor: FakeExecutor, *numbers: int, **more: Any) -> list[Attempt]:
    link.send(*(grant(n, **more) for n in numbers))
    await link.until(lambda: all(n in executor.attempts for n in numbers))
    return [executor.attempts[n] for n in numbers]


# -- taking and reporting


async def test_from_grant_to_outcome(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    first, second, third = await begun(link, executor, 1, 2, 3)
    assert opened.running == 3
    first.succeed(b"1")
    second.fail(ErrorInfo("Boom", "no"), delay_ms=5)
    third.snooze(10)
    third.succeed(b"too late")
    await link.until(lambda: len(link.outcomes) == 3)
    assert [(o.task, o.result, o.output, o.delay_ms) for o in link.outcomes] == [
        (1, "succeeded", b"1", 0),
        (2, "failed", b"", 5),
        (3, "snoozed", b"", 10),
    ]
    assert opened.running == 0


async def test_a_repeated_grant_begins_nothing_twice(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (first,) = await begun(link, executor, 1)
    await begun(link, executor, 1, 2)
    assert executor.attempts[1] is first


async def test_a_server_that_refuses(link: FakeLink, executor: FakeExecutor) -> None:
    link.answers["register"] = "refused"
    with pytest.raises(SkepError, match="was not admitted: refused"):
        await Node(NodeInfo("n1"), link, [executor], ManualClock()).open()


async def test_outcomes_are_reported_again_until_they_are_taken(
    opened: Node, link: FakeLink, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = await begun(link, executor, 1, 2, 99)
    link.broken.add("report")
    attempts[0].succeed()
    await link.until(lambda: "report" in link.calls)
    attempts[1].succeed()
    attempts[2].succeed()
    link.broken.clear()
    await link.until(lambda: len(link.outcomes) == 3)
    assert [o.task for o in link.outcomes] == [1, 2, 99]
    assert "superseded" in caplog.text


async def test_large_outputs_become_artifacts_and_hold_nothing_back(
    opened: Node, link: FakeLink, executor: FakeExecutor
) -> None:
    large, small = await begun(link, executor, 1, 2)
    link.broken.add("put_artifact")
    large.succeed(b'"' + b"x" * 100_000 + b'"')
    small.succeed(b"1")
    await link.until(lambda: len(link.outcomes) == 1)
    assert link.outcomes[0].task == 2
    link.broken.clear()
    await link.until(lambda: len(link.outcomes) == 2)
    assert link.outcomes[1].output == b"@artifact-1"
    assert len(link.artifacts[0]) == 100_002


async def test_no_log_keeps_an_outcome_back(
    opened: Node, link: FakeLink, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    (attempt,) = await begun(link, executor, 1)
    link.broken.add("log")
    opened.write_log(attempt, "log", b"hello")
    attempt.succeed()
    await link.until(lambda: link.outcomes)
    link.broken.clear()
    await link.until(lambda: link.chunks)
    assert link.chunks[0].data == b"hello"


async def test_logs_are_stored_before_the_end_is_told(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    opened.write_log(attempt, "log", b"hello")
    attempt.succeed()
    await link.until(lambda: link.outcomes)
    assert [call for call in link.calls if call in ("log", "report")] == ["log", "report"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (msgspec.json.encode(Call("python", "m:f", isolation="process")), "does not run `process` tasks"),
        (msgspec.json.encode(Call("agent", "x")), "does not run `agent` tasks"),
        (b"not JSON", "does not run `unreadable` tasks"),
    ],
)
async def test_what_cannot_be_run_fails(opened: Node, link: FakeLink, call: bytes, said: str) -> None:
    link.send(grant(1, call))
    await link.until(lambda: link.outcomes)
    assert link.outcomes[0].error is not None
    assert said in link.outcomes[0].error.message


async def test_an_executor_that_raises(
    opened: Node, link: FakeLink, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.trouble = ValueError("no")
    link.send(grant(1))
    await link.until(lambda: link.outcomes)
    assert link.outcomes[0].error == ErrorInfo("Executor", "it could not be started: ValueError: no")
    executor.trouble = None
    await begun(link, executor, 2)


async def test_a_retired_node_takes_nothing(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    link.broken.add("retired")
    taken = link.calls.count("take")
    link.send(grant(1))
    await link.until(lambda: link.calls.count("take") > taken)
    assert not executor.attempts
    assert opened.running == 0


# -- stops


async def test_the_first_stop_counts_and_is_passed_on_once(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    link.send(Stop(Token(7, 1), "deadline"), Stop(Token(7, 1), "cancel"), Stop(Token(7, 5), "cancel"))
    await begun(link, executor, 2)
    assert executor.stops == [(1, "deadline")]
    attempt.fail(ErrorInfo("KeyError", "'x'", "Traceback …"))
    await link.until(lambda: link.outcomes)
    error = ErrorInfo("Deadline", "still running at the task's deadline (KeyError: 'x')", "Traceback …")
    assert (link.outcomes[0].result, link.outcomes[0].error) == ("failed", error)


async def test_timeouts(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    now = 0.0
    opened._time = lambda: now
    await begun(link, executor, 1, timeout_ms=5_000)
    await begun(link, executor, 2, timeout_ms=1_000)
    await begun(link, executor, 3, timeout_ms=1_000)
    opened._overdue()
    assert executor.stops == []
    executor.attempts[3].succeed()
    now = 1.0
    opened._overdue()
    assert executor.stops == [(2, "timeout")]
    now = 9.0
    opened._overdue()
    assert executor.stops == [(2, "timeout"), (1, "timeout")]
    executor.attempts[1].fail(ErrorInfo("Cancelled", "cancelled"))
    await link.until(lambda: len(link.outcomes) == 2)
    assert link.outcomes[1].error == ErrorInfo("Timeout", "still running after its timeout of 5 s")


async def test_timeouts_of_ended_attempts_take_no_room(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    for n in range(3_000):
        link.inbox.append((n + 1, grant(n, timeout_ms=3_600_000)))
    link.send()
    for n in range(3_000):
        await link.until(lambda n=n: n in executor.attempts)  # type: ignore[misc]
        executor.attempts[n].succeed()
    assert len(opened._timeouts) <= 3_000
    await begun(link, executor, 3_000, timeout_ms=3_600_000)
    assert len(opened._timeouts) < 2_000


# -- closing


async def test_close_stops_reports_and_leaves(link: FakeLink, executor: FakeExecutor) -> None:
    made = Node(NodeInfo("n1"), link, [executor], ManualClock())
    await made.open()
    (attempt,) = await begun(link, executor, 1, timeout_ms=3_600_000)
    made.write_log(attempt, "out", b"last words")
    await made.close()
    assert executor.stops == [(1, "cancel")]
    assert [(o.result, o.error) for o in link.outcomes] == [
        ("cancelled", ErrorInfo("Cancelled", "stopped: cancel")),
    ]
    assert [chunk.data for chunk in link.chunks] == [b"last words"]
    assert [call for call in link.calls if call != "take"][-4:] == ["unlisten", "log", "report", "retire"]


async def test_close_goes_on_whatever_fails(link: FakeLink, executor: FakeExecutor, caplog: pytest.LogCaptureFixture) -> None:
    made = Node(NodeInfo("n1"), link, [executor], ManualClock())
    await made.open()
    (attempt,) = await begun(link, executor, 1)
    made.write_log(attempt, "out", b"lost")
    executor.trouble = OSError("close")
    link.broken |= {"report", "log", "retire"}
    await made.close()
    assert link.calls.count("report") == node.LAST_TRIES
    assert "a step of closing failed" in caplog.text


async def test_close_waits_for_nobody_for_ever(
    link: FakeLink, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node, "CLOSE_S", 0.01)
    link.gate = asyncio.Event()
    made = Node(NodeInfo("n1"), link, [executor], ManualClock())
    await made.open()
    (attempt,) = await begun(link, executor, 1)
    made.write_log(attempt, "out", b"x")
    attempt.succeed()
    async with asyncio.timeout(10):
        await made.close()
    assert link.calls[-1] == "retire"
    link.gate.set()
    await link.until(lambda: link.outcomes)


# -- logs


async def test_what_is_written_in_a_row_is_one_chunk(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    first, second = await begun(link, executor, 1, 2)
    for attempt, stream, data in (
        (first, "log", b"a"),
        (first, "log", b"b"),
        (first, "out", b"c"),
        (second, "log", b"d"),
        (first, "log", b"e"),
    ):
        opened.write_log(attempt, stream, data)
    await link.until(lambda: link.chunks)
    assert [(c.task, c.stream, c.offset, c.data) for c in link.chunks] == [
        (1, "log", 0, b"ab"),
        (1, "out", 0, b"c"),
        (2, "log", 0, b"d"),
        (1, "log", 2, b"e"),
    ]


@pytest.mark.parametrize("sizes", [[10, 1], [4, 4, 4, 4], [25], [9, 2]])
async def test_output_is_cut_once_and_says_so(
    opened: Node, link: FakeLink, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(logs, "LOG_CAP", 10)
    (attempt,) = await begun(link, executor, 1)
    for size in (*sizes, 5, 5):
        opened.write_log(attempt, "out", b"x" * size)
    opened.write_log(attempt, "err", b"y")
    await link.until(lambda: link.chunks)
    assert b"".join(c.data for c in link.chunks if c.stream == "out") == b"x" * 10 + logs.CUT
    assert link.chunks[-1].data == b"y"


async def test_logs_wait_for_a_server_that_is_away_within_bounds(
    opened: Node, link: FakeLink, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "MOST_WAITING", 100)
    (attempt,) = await begun(link, executor, 1)
    link.broken.add("log")
    for n in range(30):
        opened.write_log(attempt, f"s{n}", b"0123456789")
    await link.until(lambda: "log" in link.calls)
    link.broken.clear()
    await link.until(lambda: link.chunks)
    assert sum(len(chunk.data) for chunk in link.chunks) <= 120
    assert link.chunks == sorted(link.chunks, key=lambda chunk: int(chunk.stream[1:]))
    opened.write_log(attempt, "last", b"x")
    await link.until(lambda: link.chunks[-1].stream == "last")
    assert "bytes of output are lost" in caplog.text


async def test_only_the_last_progress_counts(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    opened.show_progress(attempt, 1, 3, "one")
    opened.show_progress(attempt, 2, 3, "two")
    await link.until(lambda: link.shown)
    assert link.shown == [Progress("run-1", 1, 1, 2, 3, "two")]


# -- locks and other requests


def claim(opened: Node, attempt: Attempt, key: str = "a") -> asyncio.Task[Any]:
    return asyncio.create_task(opened.call(attempt, "claim", key, EXCLUSIVE, 1_000, True))


async def test_a_lock_is_given_back_by_the_last_block(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    assert [await claim(opened, attempt), await claim(opened, attempt)] == ["ok", "ok"]
    await opened.call(attempt, "release", "a")
    assert "release a" not in link.calls
    await opened.call(attempt, "release", "a")
    await opened.call(attempt, "release", "a")
    assert link.calls.count("release a") == 1


async def test_waiting_for_a_lock(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    first, second = await begun(link, executor, 1, 2)
    link.answers["claim"] = "waiting"
    waiting = [claim(opened, first), claim(opened, first), claim(opened, second)]
    await link.until(lambda: link.calls.count("claim a") == 3)
    link.send(LockGrant(Token(7, 1), "lock:default:a"), LockGrant(Token(7, 8), "lock:default:a"))
    assert [await waiting[0], await waiting[1]] == ["ok", "ok"]
    assert not waiting[2].done()
    second.succeed()
    assert await waiting[2] == "superseded"


async def test_a_stop_ends_the_wait_for_a_lock(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    link.answers["claim"] = "waiting"
    waiting = claim(opened, attempt)
    await link.until(lambda: "claim a" in link.calls)
    link.send(Stop(Token(7, 1), "cancel"))
    assert await waiting == "superseded"


async def test_a_wait_that_is_given_up(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    link.answers["claim"] = "waiting"
    waiting = claim(opened, attempt)
    await link.until(lambda: "claim a" in link.calls)
    await opened.call(attempt, "release", "a")
    assert await waiting == "superseded"
    assert link.calls[-1] == "release a"
    link.answers["claim"] = "ok"
    assert await claim(opened, attempt) == "ok"


async def test_a_claim_that_fails_leaves_nothing(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    link.broken.add("claim a")
    with pytest.raises(RecordError):
        await claim(opened, attempt)
    assert not opened._locks._locks
    link.broken.clear()
    link.answers["claim"] = "superseded"
    assert await claim(opened, attempt) == "superseded"
    assert not opened._locks._locks


async def test_requests(opened: Node, link: FakeLink, executor: FakeExecutor) -> None:
    (attempt,) = await begun(link, executor, 1)
    assert await opened.call(attempt, "load_checkpoint") == b"1"
    assert await opened.call(attempt, "put_artifact", b"data") == "artifact-1"
    assert await opened.call(attempt, "get_artifact", "artifact-1") == b"data"
    with pytest.raises(ValueError, match="unknown request 'close'"):
        await opened.call(attempt, "close")
    attempt.succeed()
    with pytest.raises(SupersededError, match="attempt 1 of t1 has ended"):
        await opened.call(attempt, "load_checkpoint")
