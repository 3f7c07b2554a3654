"""What may happen to a Redis engine: lost replies, forgotten scripts, other epochs, wiped and clustered servers, its keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from skep.clock import ManualClock
from skep.engine.protocol import (
    FORGET_MS,
    OK,
    Ask,
    Beat,
    Done,
    Engine,
    Load,
    Parked,
    Register,
    RunCommand,
    Snooze,
    Start,
)
from skep.engine.redis import RedisEngine, RedisStore, current_epoch, open_epoch, scripts, sweep
from skep.engine.redis.epochs import SCHEMA
from skep.engine.redis.keys import EMPTY, KEYS, RUN, epoch_of, schema_key, tag
from skep.errors import EngineGoneError, EngineUnavailableError, SkepError, StaleEpochError
from skep.model.node import NodeInfo
from skep.model.run import EXCLUSIVE, Claim, RestoredTask
from skep.model.state import TaskState
from skep.testing.servers import RedisServer
from skep.testing.shapes import Driver, chain, fan, shape
from tests.engine.servers import IDS, PROGRAMS, end, fresh, server, until

pytestmark = pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
LOCK = (Claim("lock", EXCLUSIVE, EXCLUSIVE),)


@pytest.fixture
def redis(program: Path) -> Iterator[RedisServer]:
    """One of the test's own, to do harm to."""
    with RedisServer(program=program) as started:
        yield started


@pytest_asyncio.fixture
async def drive(redis: RedisServer) -> AsyncIterator[Driver]:
    clock = ManualClock()
    engine = await fresh(redis.url, 5, clock, "e")
    driver = Driver(engine, clock)
    await driver.node()
    yield driver
    await end(engine)


def store_of(drive: Driver) -> RedisStore:
    assert isinstance(drive.engine, RedisEngine)
    return drive.engine.store


class Forgetful:
    """A line to a server that loses the next reply of a script, and the connection with it, when told to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.lose = False
        self.lost = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self.target)
        last = bytearray()
        ends = (reader, to_there, last, False), (there, writer, last, True)
        pumps = [asyncio.create_task(self.pump(*one)) for one in ends]
        self.tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        for one in (writer, to_there):
            one.close()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: bytearray, reply: bool) -> None:
        """`last`: what was asked last on this connection."""
        while data := await reader.read(2**16):
            if not reply:
                last[:] = data
            elif self.lose and b"EVAL" in last and not data.startswith(b"-NOSCRIPT"):
                self.lose, self.lost = False, self.lost + 1
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def forgetful(target: int) -> AsyncIterator[tuple[Forgetful, int]]:
    line = Forgetful(target)
    async with await asyncio.start_server(line.serve, "127.0.0.1", 0) as listening:
        yield line, listening.sockets[0].getsockname()[1]
        for task in line.tasks:
            task.cancel()
        await asyncio.gather(*line.tasks, return_exceptions=True)


async def in_order(store: RedisStore) -> None:
    if "cluster_state:ok" not in (await store.command("CLUSTER", "INFO")).decode():
        raise EngineUnavailableError("not yet")


async def test_a_verb_whose_reply_is_lost_is_said_again_and_done_once(program: Path) -> None:
    clock = ManualClock()
    async with forgetful(server(program).port) as (line, port):
        engine = await fresh(f"redis://127.0.0.1:{port}/0", 5, clock)
        stirred: list[str] = []
        engine.listen("ready", lambda: stirred.append("ready"))

        async def twice(verb: str, *args: Any) -> Any:
            """The first reply is lost."""
            stirred.clear()
            line.lose = True
            with pytest.raises(EngineUnavailableError):
                await getattr(engine, verb)(*args)
            assert stirred, "it may have been done: whoever waits looks"
            return await getattr(engine, verb)(*args)

        now = clock.now_ms()
        graph = chain(2)
        load = Load(run="r", namespace="d", shape=graph, first=0, count=2, read_ms=now, accepted_ms=now)
        assert await twice("register", [Register(NodeInfo("n"))]) == [OK]
        assert await twice("load", [load]) == [OK]
        assert await twice("open", ["r"]) == [OK]
        ((task,),) = [group.tasks for group in await twice("ready", 9)]
        assert await twice("place", [Start("r", 0, task.version, False, "n", "t", b"{}", (("slots", 1),))]) == [OK]
        ((number, grant),) = await twice("take", "n", 1, 0, 9)
        assert number == 1
        assert await twice("complete", [Done("r", 0, grant.token, b"1")]) == [OK]
        assert await twice("lead", "me", 3_000) is True
        events = await twice("events", 0, 99)
        assert [event.kind for event in events] == ["registered", "loaded", "ready", "granted", "succeeded", "ready"]
        assert (await engine.nodes())[0].free["slots"] == 1
        await twice("trim", 3)
        assert await engine.backlog() == 3
        assert line.lost == 10
        await end(engine)


async def test_scripts_that_the_store_forgot_are_sent_again(program: Path, drive: Driver) -> None:
    await drive.submit(chain(2))
    await store_of(drive).command("SCRIPT", "FLUSH")
    await drive.work(0)
    await store_of(drive).command("SCRIPT", "FLUSH")
    await drive.work(1)
    assert await drive.ended() is not None


async def test_an_older_epoch_is_refused_and_a_lost_engine_is_gone(program: Path, drive: Driver) -> None:
    store = store_of(drive)
    assert await current_epoch(store, "e") == 5
    await open_epoch(store, "e", 5)
    await open_epoch(store, "e", 6)
    with pytest.raises(StaleEpochError, match="epoch 6"):
        await drive.engine.ready(1)
    with pytest.raises(StaleEpochError):
        await open_epoch(store, "e", 5)
    await store.command("FLUSHALL")
    assert await current_epoch(store, "e") is None
    with pytest.raises(EngineGoneError):
        await drive.engine.beat([Beat("n", 1)])
    await open_epoch(store, "e", 5)


async def test_a_restarted_server_is_gone_for_its_engine_and_opened_anew_it_serves(
    program: Path, drive: Driver, redis: RedisServer
) -> None:
    await drive.submit(chain(1))
    redis.kill()
    with pytest.raises(EngineUnavailableError):
        await drive.engine.ready(1)
    redis.start()
    with pytest.raises(EngineGoneError):
        await drive.engine.ready(1)
    again = await fresh(redis.url, 6, drive.clock, "e")
    assert await again.ready(9) == []
    assert await again.nodes() == []
    await end(again)


async def everything(drive: Driver) -> None:
    """Leaves something in every key that there is."""
    await drive.node("m", slots=2)
    await drive.submit(shape([(0, 1)], 8, deadlines_ms={7: 9_000}, windows={2: 1}), "a", timeout_ms=9_000)
    await drive.work(0, run="a")
    token = await drive.start(1, "a", claims=LOCK)
    assert await drive.offer(3, "a", claims=LOCK) == "waiting"
    await drive.expand(2, 3, "a")
    assert await drive.tell("snooze", Snooze("a", 4, await drive.start(4, "a"), 500)) == OK
    assert await drive.tell("park", Parked("a", 5, await drive.start(5, "a"), "event")) == OK
    assert await drive.tell("claim", Ask("a", 1, token, "inside")) == OK
    assert await drive.tell("claim", Ask("a", 1, token, "more", wait=False)) == OK
    await drive.command("pause", run="a")
    assert await drive.offer(6, "a") == "paused"
    await drive.engine.dismiss([("n", token)])
    await drive.submit(fan(600), "b")
    await drive.work(0, run="b")
    now_ms = drive.clock.now_ms()
    known = [RestoredTask(0, TaskState.DELAYED, 1, due_ms=now_ms + 500)]
    load = drive.chunk(shape(size=3), "c", count=2, restored=known)
    assert await drive.engine.load([load]) == [OK]


async def found_keys(store: RedisStore) -> dict[str, str]:
    """Keys of the engine by their type."""
    names: list[bytes] = await store.command("KEYS", "*")
    return {name.decode(): (await store.command("TYPE", name)).decode() for name in names}


def shapes() -> dict[str, tuple[str, str]]:
    """Pattern to type and lifetime, the longest first."""
    patterns = {re.escape(key.pattern).replace(r"\{\}", ".+"): (key.type, key.lifetime) for key in KEYS}
    return dict(sorted(patterns.items(), key=lambda pair: -len(pair[0])))


async def test_every_key_is_on_the_list_with_its_type(program: Path, drive: Driver) -> None:
    await everything(drive)
    seen = set()
    for name, kind in (await found_keys(store_of(drive))).items():
        assert name.startswith(tag("e")), "one slot of a cluster"
        own = name.removeprefix(tag("e")).removeprefix("5:")
        pattern = next((pattern for pattern in shapes() if re.fullmatch(pattern, own)), None)
        assert pattern is not None, f"keys.py does not know {name}"
        assert shapes()[pattern][0] == kind, name
        seen.add(pattern)
    unseen = {pattern for pattern in shapes() if pattern not in seen}
    assert unseen <= {re.escape("ended")}, f"the test shows nothing of {unseen}"


async def test_of_what_is_over_nothing_is_left(program: Path, drive: Driver) -> None:
    await everything(drive)
    engine = drive.engine
    await engine.load([drive.chunk(shape(size=3), "c", first=2, count=1)])
    await engine.open(["c"])
    await engine.cancel([RunCommand(run, 9) for run in "abc"])
    for node in "nm":
        await engine.retire([(node, 1)], lost=node == "m")
    for _ in range(40):
        drive.clock.advance(1_000)
        await engine.promote()
        await engine.reap(10_000, 3)
    await drive.read()
    assert {run.end is not None for run in drive.history.runs.values()} == {True}
    drive.clock.advance(FORGET_MS)
    await engine.promote()
    await engine.ready(1)
    await engine.trim(len(drive.history.events))
    left = {name.removeprefix(tag("e")) for name in await found_keys(store_of(drive))}
    assert left <= {"epoch", "schema", "5:engine", "5:limits"}, left
    for _ in range(30):
        drive.clock.advance(600_000)
        await engine.reap(10_000, 3)
    left = {name.removeprefix(tag("e")) for name in await found_keys(store_of(drive))}
    assert left == {"epoch", "schema", "5:engine"}, left


async def test_an_engine_of_a_far_version_is_refused_with_both_named(program: Path, drive: Driver) -> None:
    store = store_of(drive)
    for near in (SCHEMA - 1, SCHEMA + 1):
        await store.command("SET", schema_key("e"), near)
        assert await current_epoch(store, "e") == 5
    await store.command("SET", schema_key("e"), SCHEMA + 2)
    with pytest.raises(SkepError, match=f"key schema {SCHEMA + 2}.* has {SCHEMA}"):
        await current_epoch(store, "e")


async def test_what_earlier_epochs_left_is_swept_in_bounded_steps(program: Path, drive: Driver) -> None:
    store = store_of(drive)
    await everything(drive)
    await store.command("SET", "somebody's", "own")
    await store.command("SET", tag("e-2") + "4:engine", "another engine's")
    await open_epoch(store, "e", 6)
    cursor, removed = -1, 0
    while cursor:
        step = await sweep(store, "e", 6, max(cursor, 0))
        cursor, removed = step.cursor, removed + step.removed
    assert removed > 20
    assert set(await found_keys(store)) == {tag("e") + "epoch", tag("e") + "schema", "somebody's", tag("e-2") + "4:engine"}
    assert epoch_of(tag("e") + "epoch") is None


async def test_what_one_process_stirs_is_heard_by_the_others(program: Path, drive: Driver) -> None:
    store = store_of(drive)
    other = RedisEngine(store, "e", 5, drive.clock)
    await other.start()
    heard = {topic: asyncio.Event() for topic in ("ready", "events", "node:n", "anything")}
    counts = dict.fromkeys(heard, 0)

    def told(topic: str) -> None:
        counts[topic] += 1
        heard[topic].set()

    for topic in heard:
        other.listen(topic, partial(told, topic))
    own = asyncio.Event()
    drive.engine.listen("ready", own.set)
    await drive.submit(chain(1))
    assert own.is_set(), "its own process hears at once"
    await drive.start()
    await drive.engine.stir(["anything"])
    for event in heard.values():
        await asyncio.wait_for(event.wait(), 5)
        event.clear()
    await store.command("CLIENT", "KILL", "TYPE", "pubsub")
    for event in heard.values():
        await asyncio.wait_for(event.wait(), 5)  # something may have been missed
    await other.close()


async def test_engine_time_follows_the_store_but_never_jumps(program: Path) -> None:
    engine = await fresh(server(program).url, 5)
    store, key = engine.store, f"{tag(engine.engine_id)}5:engine"
    await engine.promote()
    for moved_ms, most in ((-3_600_000, 5_500), (3_600_000, 500)):
        kept = msgspec.msgpack.decode(await store.command("GET", key))
        kept[1] += moved_ms
        await store.command("SET", key, msgspec.msgpack.encode(kept))
        before = engine.now_ms
        await engine.promote()
        gone = msgspec.msgpack.decode(await store.command("GET", key))[0] - kept[0]
        assert 0 <= gone <= most
        assert abs(engine.now_ms - before - gone) < 1_000
    await end(engine)


async def test_a_full_store_changes_nothing_and_goes_on_when_there_is_room(program: Path, drive: Driver) -> None:
    await drive.submit(shape(size=2))
    token = await drive.start(0)
    store = store_of(drive)
    await store.command("CONFIG", "SET", "maxmemory", "100kb")
    with pytest.raises(EngineUnavailableError, match="full"):
        await drive.engine.complete([Done("r", 0, token)])
    assert await drive.states() == "running ready"
    await store.command("CONFIG", "SET", "maxmemory", "0")
    await drive.complete(0)
    assert await drive.states() == "succeeded ready"


async def test_a_server_that_became_a_replica_is_not_there(program: Path, drive: Driver) -> None:
    store = store_of(drive)
    await store.command("CONFIG", "SET", "repl-diskless-load", "disabled")
    await store.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(EngineUnavailableError):
        await drive.engine.beat([Beat("n", 1)])
    await store.command("REPLICAOF", "NO", "ONE")
    assert await drive.engine.beat([Beat("n", 1)]) == [OK]


async def test_many_verbs_at_once_do_not_wait_for_each_other(program: Path, drive: Driver) -> None:
    await drive.submit(shape(size=50))
    answers = await asyncio.gather(*(drive.engine.ready(3) for _ in range(100)))
    assert all(answer == answers[0] for answer in answers)


async def test_a_cluster_carries_it(program: Path) -> None:
    """All keys of an engine are in one slot."""
    with RedisServer(None, "--cluster-enabled", "yes", program=program) as cluster:
        store = await RedisStore.connect(cluster.url)
        await store.command("CLUSTER", "ADDSLOTS", *range(16_384))
        await until(lambda: in_order(store))
        await store.close()
        clock = ManualClock()
        engine: Engine = await fresh(cluster.url, 5, clock, "e")
        drive = Driver(engine, clock)
        await drive.node()
        await everything(drive)
        assert isinstance(engine, RedisEngine)
        await end(engine)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("args: items packed", "args: item packed"), "the method"),
        (("keys: epoch", "keys: epochs"), r"keys\.py knows no epochs"),
        (("-- lease: the task's\n", ""), "does not say lease"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(program: Path, wrong: tuple[str, str], said: str) -> None:
    text = (Path(str(scripts.LUA)) / "complete.lua").read_text(encoding="utf-8")
    assert wrong[0] in text
    with pytest.raises(TypeError, match=said):
        scripts.check("complete", scripts.header_of(text.replace(*wrong, 1)))


def test_every_verb_has_its_script(program: Path) -> None:
    verbs = {name for name in vars(Engine) if not name.startswith("_")} - {"listen", "heard", "now_ms", "epoch", "memory"}
    assert verbs == scripts.SCRIPTS.keys()
    assert {key.lifetime for key in KEYS} >= {EMPTY, RUN}
