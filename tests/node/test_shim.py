"""The promise of the shim: whatever a command started, nothing of it outlives its time. All with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import psutil
import pytest

from skep.node.processes import Process, Processes

MARK = "SKEP_TEST_MARK"
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("daemon", flush=True)
        time.sleep(1000)
    os._exit(0)
os.wait()
"""
RESPAWNER = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid() if os.getpid() != os.getsid(0) else None
print("up", flush=True)
while True:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "1000"])
        time.sleep(0.3)
        os._exit(0)
    time.sleep(0.01)
"""
CHAIN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    if os.fork():
        os._exit(0)
    time.sleep(0.001)
"""
OWNER = """
import asyncio, os, sys
from skep.node.processes import Processes

async def main():
    async with Processes() as processes:
        env = {"PATH": os.environ["PATH"], sys.argv[1]: sys.argv[2]}
        process = await processes.spawn(["sh", "-c", sys.argv[3]], env=env, on_output=lambda stream, chunk: os.write(1, chunk))
        await process.wait()

asyncio.run(main())
"""


def marked(mark: str) -> list[psutil.Process]:
    """Every living process whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass  # ended meanwhile, or a zombie
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    left = marked(name)
    for process in left:
        process.kill()
    assert not left


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    async with Processes() as opened:
        yield opened


async def until(condition: Callable[[], bool], limit_s: float = 5) -> float:
    """Waits for it and returns how long that took, in seconds."""
    start = time.monotonic()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - the condition is outside of this process
            await asyncio.sleep(0.01)
    return time.monotonic() - start


async def start(processes: Processes, mark: str, *argv: str, ready: bytes = b"") -> Process:
    """A marked command, once it has written `ready`."""
    heard = bytearray()
    env = {"PATH": os.environ["PATH"], MARK: mark}
    process = await processes.spawn(argv, env=env, on_output=lambda stream, chunk: heard.extend(chunk))
    await until(lambda: ready in heard)
    return process


async def test_daemon_ends_with_its_command(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, sys.executable, "-c", DAEMON, ready=b"daemon")
    exit = await asyncio.wait_for(process.wait(), 2)
    assert (exit.code, exit.killed) == (0, 1)
    assert not marked(mark)


async def test_daemon_ends_with_stop(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, sys.executable, "-c", DAEMON + "time.sleep(1000)", ready=b"daemon")
    process.stop(300)
    exit = await asyncio.wait_for(process.wait(), 2)
    assert (exit.signal, exit.killed) == (signal.SIGKILL, 1)
    assert not marked(mark)


async def test_command_that_ignores_sigterm(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done", ready=b"up")
    process.stop(100)
    exit = await asyncio.wait_for(process.wait(), 2)
    assert exit.signal == signal.SIGKILL
    assert not marked(mark)


async def test_what_is_kept_ends_by_itself_when_nobody_says_so_again(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done", ready=b"up")
    process.keep(100)
    exit = await asyncio.wait_for(process.wait(), 5)
    assert exit.signal == signal.SIGKILL
    assert not marked(mark)


async def test_what_is_kept_again_or_not_any_more_goes_on(processes: Processes, mark: str) -> None:
    free, again, kept = [await start(processes, mark, "sh", "-c", "echo up; exec sleep 1000", ready=b"up") for _ in range(3)]
    for process in (free, again, kept):
        process.keep(300)
    free.keep(None)
    again.keep(60_000)
    await asyncio.wait_for(kept.wait(), 5)
    for process in (free, again):
        assert not process.ended.done()
        process.stop(0)
        await asyncio.wait_for(process.wait(), 5)


async def test_grace_is_for_an_orderly_end(processes: Processes, mark: str) -> None:
    process = await start(
        processes, mark, "sh", "-c", "trap 'sleep 0.1; exit 7' TERM; echo up; while :; do sleep 0.01; done", ready=b"up"
    )
    process.stop(5000)
    assert (await asyncio.wait_for(process.wait(), 4)).code == 7


async def test_second_stop_can_only_be_sooner(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done", ready=b"up")
    process.stop(60_000)
    process.stop(0)
    process.stop(60_000)
    await asyncio.wait_for(process.wait(), 2)


async def test_stopped_processes_hear_sigterm(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, "sh", "-c", "trap 'exit 6' TERM; echo up; kill -STOP $$; sleep 1000", ready=b"up")
    await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.stop(5000)
    assert (await asyncio.wait_for(process.wait(), 3)).code == 6


@pytest.mark.parametrize("script", [RESPAWNER, CHAIN], ids=["respawner", "chain"])
async def test_runaway_spawner(processes: Processes, mark: str, script: str) -> None:
    process = await start(processes, mark, sys.executable, "-c", script, ready=b"up")
    if script is RESPAWNER:
        await until(lambda: len(marked(mark)) > 20)
    process.stop(0)
    await asyncio.wait_for(process.wait(), 2)
    assert not marked(mark)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & setsid sleep 1000 & echo up; wait",
        "trap '' TERM; (trap '' TERM; setsid sleep 1000) & echo up; while :; do sleep 1000; done",
    ],
    ids=["plain", "stubborn"],
)
@pytest.mark.parametrize("zygote_too", [False, True])
async def test_nothing_survives_a_killed_owner(mark: str, script: str, zygote_too: bool) -> None:
    command = [sys.executable, "-c", OWNER, MARK, mark, script]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as owner:  # noqa: ASYNC220 - it is to be killed
        assert owner.stdout
        assert owner.stdout.readline() == b"up\n"
        await until(lambda: len(marked(mark)) >= 3)
        family = psutil.Process(owner.pid).children(recursive=True)
        if zygote_too:
            psutil.Process(owner.pid).children()[0].kill()
        owner.kill()
        owner.wait()
        assert await until(lambda: not marked(mark)) < 2
        await until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family))


async def test_killed_shim_takes_its_tree_along(processes: Processes, mark: str) -> None:
    script = f"{DAEMON}time.sleep(1000)"
    process = await start(processes, mark, sys.executable, "-c", script, ready=b"daemon")
    other = await start(processes, mark + "-other", "sleep", "1000")
    psutil.Process(process.pid).parent().kill()  # type: ignore[union-attr]
    exit = await asyncio.wait_for(process.wait(), 2)
    assert (exit.code, exit.signal) == (None, signal.SIGKILL)
    assert await until(lambda: not marked(mark)) < 2
    assert marked(mark + "-other")  # the zygote knows whose orphans they are
    other.stop()
    assert (await other.wait()).signal == signal.SIGTERM


async def test_signalled_service_is_the_owners_business(processes: Processes, mark: str) -> None:
    process = await start(processes, mark, "sh", "-c", "sleep 0.2; exit 3")
    shim = psutil.Process(process.pid).parent()
    assert shim
    for each in (shim, shim.parent()):
        assert each
        each.terminate()
        each.send_signal(signal.SIGINT)
    assert (await process.wait()).code == 3


async def test_pipe_held_by_a_leftover_delays_nothing(processes: Processes, mark: str) -> None:
    start_s = time.monotonic()
    process = await start(processes, mark, "sh", "-c", "setsid sleep 1000 & exit 2")
    exit = await asyncio.wait_for(process.wait(), 2)
    assert (exit.code, exit.killed) == (2, 1)
    assert time.monotonic() - start_s < 1
