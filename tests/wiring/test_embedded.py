"""Embedded engines and what they leave behind."""

import asyncio
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.errors import RecordError, SkepError
from skep.model.authoring import build_workflow
from skep.model.node import NodeInfo
from skep.model.spec import WorkflowSpec
from skep.model.state import RunState
from skep.node.functions import registry
from skep.wiring import RECORD_FILE, Embedded

NODE = NodeInfo("n1", slots=4, cpu_milli=2_000, memory=1 << 30)

PROCESS = """
import asyncio, sys
from pathlib import Path
from skep.model.authoring import build_workflow
from skep.model.node import NodeInfo
from skep.wiring import Embedded

def hang():
    print("started", flush=True)
    sys.stdin.read()

async def main():
    async with Embedded([NodeInfo("n1")], data=Path(sys.argv[1])) as embedded:
        flow = build_workflow({"name": "w", "tasks": {"a": {"python": __file__ + ":hang"}}})
        run = await embedded.hub.runs.submit(flow)
        print(run, flush=True)
        await embedded.hub.runs.wait(run)

if __name__ == "__main__":
    asyncio.run(main())
"""


def flow(**tasks: dict[str, Any]) -> WorkflowSpec:
    return build_workflow({"name": "w", "tasks": tasks})


@pytest.fixture(autouse=True)
def _functions() -> Iterator[None]:
    async def forever() -> None:
        await asyncio.Event().wait()

    registry["wiring:one"] = lambda: 1
    registry["wiring:forever"] = forever
    yield
    del registry["wiring:one"], registry["wiring:forever"]


ONE: dict[str, Any] = {"python": "wiring:one"}
FOREVER: dict[str, Any] = {"python": "wiring:forever"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "some" / "where"


async def play(embedded: Embedded) -> Any:
    run = await embedded.hub.runs.submit(flow(a=dict(ONE)))
    await embedded.hub.runs.wait(run, 20)
    return await embedded.hub.runs.output(run)


async def test_it_runs_and_leaves_nothing_behind(data: Path) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    async with Embedded([NODE], data=data) as embedded:
        assert await play(embedded) == {"a": 1}
        assert len(list((data / "engines").iterdir())) == 1
    assert list((data / "engines").iterdir()) == []
    assert {thread.ident for thread in threading.enumerate()} == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_data_directory_is_private(data: Path) -> None:
    before = os.umask(0)
    try:
        async with Embedded([NODE], data=data):
            pass
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(folder).st_mode) for folder in (data, data / "engines")} == {0o700}


async def test_the_record_stays(data: Path) -> None:
    async with Embedded([NODE], data=data) as first:
        run = await first.hub.runs.submit(flow(a=dict(ONE)))
        await first.hub.runs.wait(run, 20)
    async with Embedded([NODE], data=data) as second:
        view = await second.hub.runs.view(run)
    assert (view.state, view.output) == ("succeeded", {"a": 1})


async def test_several_at_once_on_the_same_data(data: Path) -> None:
    async with Embedded([NODE], data=data) as first, Embedded([NODE], data=data) as second:
        unfinished = await first.hub.runs.submit(flow(a=dict(FOREVER)))
        assert await asyncio.gather(*(play(one) for one in (first, second) * 3)) == [{"a": 1}] * 6
        async with Embedded([NODE], data=data) as third:  # sweeps what is abandoned: nothing is
            assert (await third.hub.runs.view(unfinished)).state == "running"


async def test_what_is_unfinished_at_close_is_ended(data: Path) -> None:
    async with Embedded([NODE], data=data) as first:
        run = await first.hub.runs.submit(flow(a=dict(FOREVER), b={**ONE, "needs": ["a"]}))
        await asyncio.sleep(0)
    async with Embedded([NODE], data=data) as second:
        view = await second.hub.runs.view(run)
    assert (view.state, view.reason) == ("failed", "abandoned")


async def test_an_abandoned_engine_is_swept(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    process = await asyncio.create_subprocess_exec(sys.executable, script, data, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [(await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip() for _ in range(2)]
    (run,) = (line for line in lines if line != "started")
    async with Embedded([NODE], data=data) as beside:
        assert (await beside.hub.runs.view(run)).state in ("queued", "running")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]
    assert len(list((data / "engines").iterdir())) == 1
    async with Embedded([NODE], data=data) as after:
        view = await after.hub.runs.view(run)
        assert (view.state, view.reason) == ("failed", "abandoned")
        assert await play(after) == {"a": 1}
    assert "1 unfinished runs of an earlier process were ended as failed" in caplog.text
    assert list((data / "engines").iterdir()) == []


async def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Embedded([NODE], data=None) as embedded:
        assert await play(embedded) == {"a": 1}
    assert os.listdir(tmp_path) == []


# -- data that cannot be used


def nothing_is_left(before: int) -> None:
    assert threading.active_count() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("place", ["file", "file/below", "engines is a file", "/proc/skep"])
async def test_a_data_directory_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    before = threading.active_count()
    (tmp_path / "file").write_text("")
    data = tmp_path / place
    if place.startswith("engines"):
        data.mkdir()
        (data / "engines").write_text("")
    with pytest.raises(RecordError, match=r"the data directory .* cannot be used: .* --data or SKEP_HOME"):
        await Embedded([NODE], data=data).open()
    nothing_is_left(before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("which", ["", "engines"])
async def test_a_data_directory_that_cannot_be_written(data: Path, which: str) -> None:
    before = threading.active_count()
    (data / "engines").mkdir(parents=True)
    (data / which).chmod(0o500)
    with pytest.raises(RecordError, match=r"data directory|unable to open"):
        await Embedded([NODE], data=data).open()
    nothing_is_left(before)
    (data / which).chmod(0o700)


async def test_a_lock_file_that_cannot_be_opened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no locks on this file system")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RecordError, match=r"cannot be used: no locks on this file system.* --data or SKEP_HOME"):
        await Embedded([NODE], data=data).open()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be taken for one " * 100, b"SQLite format 3\0" + b"x" * 5_000]
)
async def test_a_damaged_record(data: Path, content: bytes) -> None:
    before = threading.active_count()
    (data / "engines").mkdir(parents=True)
    (data / RECORD_FILE).write_bytes(content)
    with pytest.raises(RecordError, match=r"the file is (not a database or is )?damaged.*move the file away"):
        await Embedded([NODE], data=data).open()
    nothing_is_left(before)
    assert list((data / "engines").iterdir()) == []


async def test_a_record_that_is_a_directory(data: Path) -> None:
    (data / RECORD_FILE).mkdir(parents=True)
    with pytest.raises(RecordError, match=RECORD_FILE):
        await Embedded([NODE], data=data).open()


async def test_close_without_open_and_twice(data: Path) -> None:
    embedded = Embedded([NODE], data=data)
    await embedded.close()
    await embedded.open()
    await embedded.close()
    await embedded.close()


async def test_cancelled_while_a_run_goes_on(data: Path) -> None:
    async def main() -> None:
        async with Embedded([NODE], data=data) as embedded:
            run = await embedded.hub.runs.submit(flow(a=dict(FOREVER)))
            submitted.set()
            assert await embedded.hub.runs.wait(run) == RunState.FAILED

    submitted = asyncio.Event()
    running = asyncio.create_task(main())
    await submitted.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert list((data / "engines").iterdir()) == []


# -- loops that always fail


def break_(embedded: Embedded, name: str, error: Exception) -> None:
    async def fail() -> bool:
        raise type(error)(*error.args)

    loops = [*embedded._loops, *(loop for node in embedded.nodes for loop in node.loops)]
    (loop,) = (loop for loop in loops if loop.name == name)
    loop.run_once = fail  # type: ignore[method-assign]
    loop.wake()


@pytest.mark.parametrize("name", ["transcribe", "load", "place", "promote", "reap", "take", "report"])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("a fault"), SkepError, "the loop {}: KeyError: 'a fault'\nThe run was given up after .*stopped"),
        (RecordError("no room"), RecordError, "no room\nThe run was given up after .*; the next `skep run` on this data ends"),
    ],
)
async def test_a_loop_that_always_fails_ends_the_wait(
    data: Path, caplog: pytest.LogCaptureFixture, name: str, error: Exception, kind: type[SkepError], message: str
) -> None:
    before = threading.active_count()
    runs: list[str] = []

    async def main() -> None:
        async with Embedded([NODE], data=data, give_up_s=0.1) as embedded, asyncio.timeout(20):
            begun = asyncio.Event()
            embedded.hub.feed.subscribe(lambda events: begun.set() if any(e.kind == "granted" for e in events) else None)
            runs.append(await embedded.hub.runs.submit(flow(a=dict(FOREVER))))
            await begun.wait()
            break_(embedded, name, error)
            await embedded.hub.runs.wait(runs[0])

    with pytest.raises(SkepError, match=message.format(name)) as caught:
        await main()
    assert type(caught.value) is kind
    assert caplog.text.count("tried again for up to 100ms") == 1
    nothing_is_left(before)
    async with Embedded([NODE], data=data) as after:
        view = await after.hub.runs.view(runs[0])
    assert (view.state, view.reason) == ("failed", "abandoned")


async def test_trouble_that_passes_in_time_is_no_end(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Embedded([NODE], data=data) as embedded:
        (place,) = (loop for loop in embedded._loops if loop.name == "place")
        once, failed = place.run_once, asyncio.Event()

        async def fail() -> bool:
            failed.set()
            raise RecordError("no room")

        place.run_once = fail  # type: ignore[method-assign]
        playing = asyncio.create_task(play(embedded))
        await failed.wait()
        place.run_once = once  # type: ignore[method-assign]
        assert await playing == {"a": 1}
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "no room; tried again for up to 20s",
        "what failed works again",
    ]


async def test_what_fails_at_the_close_is_given_up(data: Path) -> None:
    async with asyncio.timeout(20), Embedded([NODE], data=data) as embedded:
        await embedded.hub.runs.submit(flow(a=dict(FOREVER)))
        transcribe, failed = embedded._loops[0], asyncio.Event()

        async def fail() -> bool:
            failed.set()
            raise RecordError("no room")

        transcribe.run_once = fail  # type: ignore[method-assign]
        transcribe.wake()
        await failed.wait()
