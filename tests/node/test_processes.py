"""What a caller of `Processes` sees: output, ends, refusals, and that nothing is kept open."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skep.node.processes import Exit, Process, Processes, SpawnError

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    async with Processes() as opened:
        yield opened


class Output:
    """Collects what a command writes, by stream."""

    def __init__(self) -> None:
        self.streams = {1: b"", 2: b""}
        self.largest = 0

    def __call__(self, stream: int, chunk: bytes) -> None:
        self.streams[stream] += chunk
        self.largest = max(self.largest, len(chunk))


async def run(processes: Processes, *argv: str, **options: object) -> tuple[Exit, Output]:
    output = Output()
    process = await processes.spawn(argv, **{"env": ENV, "on_output": output, **options})  # type: ignore[arg-type]
    return await asyncio.wait_for(process.wait(), 20), output


async def until(condition: Callable[[], bool], limit_s: float = 5) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - the condition is outside of this process
            await asyncio.sleep(0.005)


def zygote(processes: Processes) -> int:
    return processes.open()._popen.pid


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_exit_code(processes: Processes, code: int) -> None:
    exit, _ = await run(processes, "sh", "-c", f"exit {code}")
    assert (exit.code, exit.signal, exit.killed) == (code, None, 0)


async def test_signal(processes: Processes) -> None:
    exit, _ = await run(processes, "sh", "-c", "kill -USR1 $$")
    assert (exit.code, exit.signal) == (None, signal.SIGUSR1)


async def test_argv_env_and_cwd_arrive_as_they_are(processes: Processes, tmp_path: Path) -> None:
    words = ["", "a b", "'\"$x\n", "grün", "\udcff"]
    env = {**ENV, "EMPTY": "", "NAME": "ü=1"}
    _, output = await run(
        processes, "sh", "-c", 'printf "%s|" "$@" "$EMPTY" "$NAME" "$PWD"', "sh", *words, env=env, cwd=str(tmp_path)
    )
    expected = [*words, "", "ü=1", str(tmp_path), ""]
    assert output.streams == {1: b"|".join(map(os.fsencode, expected)), 2: b""}


async def test_environment_is_only_what_was_given(processes: Processes) -> None:
    _, output = await run(processes, "env", env={**ENV, "ONE": "1"})
    assert sorted(output.streams[1].splitlines()) == sorted([b"PATH=" + os.fsencode(ENV["PATH"]), b"ONE=1"])


async def test_request_larger_than_the_socket_buffer(processes: Processes) -> None:
    words = ["x" * 100_000] * 12
    _, output = await run(processes, "sh", "-c", 'printf "%s" "$@"', "sh", *words)
    assert len(output.streams[1]) == 1_200_000


async def test_both_streams_in_order(processes: Processes) -> None:
    _, output = await run(processes, "sh", "-c", "for i in $(seq 1000); do echo $i; echo -$i >&2; done")
    assert output.streams[1] == b"".join(b"%d\n" % i for i in range(1, 1001))
    assert output.streams[2] == b"".join(b"-%d\n" % i for i in range(1, 1001))


async def test_binary_output(processes: Processes) -> None:
    _, output = await run(processes, sys.executable, "-c", "import os; os.write(1, bytes(range(256)) * 9)")
    assert output.streams[1] == bytes(range(256)) * 9


async def test_fifty_megabytes_in_bounded_chunks(processes: Processes) -> None:
    size, largest = 0, 0

    def count(stream: int, chunk: bytes) -> None:
        nonlocal size, largest
        size, largest = size + len(chunk), max(largest, len(chunk))

    exit, _ = await run(processes, "head", "-c", "50000000", "/dev/zero", on_output=count)
    assert (exit.code, size) == (0, 50_000_000)
    assert largest <= 64 * 1024


async def test_standard_input_is_empty_unless_given(processes: Processes) -> None:
    _, output = await run(processes, "cat")
    assert output.streams[1] == b""
    end, other = os.pipe()
    os.write(other, b"hello")
    os.close(other)
    _, output = await run(processes, "cat", stdin=end)
    os.close(end)
    assert output.streams[1] == b"hello"


async def test_extra_descriptor_keeps_its_number_and_no_other_is_open(processes: Processes) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        script = "import os; os.write(int(os.environ['FD']), b'hi'); print(*sorted(map(int, os.listdir('/proc/self/fd'))))"
        fd = theirs.fileno()
        _, output = await run(processes, sys.executable, "-c", script, env={**ENV, "FD": str(fd)}, extra_fds=(fd,))
        assert mine.recv(10) == b"hi"
        opened = set(map(int, output.streams[1].split()))
        assert {0, 1, 2, fd} <= opened
        assert len(opened) == 5  # and the one that lists the folder


async def test_command_has_default_signals_and_its_own_session(processes: Processes) -> None:
    # Python itself ignores SIGPIPE and SIGXFSZ; the numbers below 1 << 31 are those that any program can set.
    script = (
        "import os; lines = [l for l in open('/proc/self/status') if l[:6] in ('SigIgn', 'SigBlk')];"
        "masks = [int(l.split()[1], 16) & 0x7FFFFFFF for l in lines];"
        "print(masks == [0, 0x1001000], os.getsid(0) == os.getpid())"
    )
    process_exit, output = await run(processes, sys.executable, "-c", script)
    assert process_exit.code == 0
    assert output.streams[1] == b"True True\n"


async def test_usage_covers_the_whole_tree(processes: Processes) -> None:
    burn = "import time\nx = bytearray(60_000_000)\nwhile time.process_time() < 0.3: pass"
    exit, _ = await run(processes, "sh", "-c", f"'{sys.executable}' -c '{burn}'; true")
    assert exit.user_ms + exit.system_ms >= 290
    assert exit.max_rss_bytes > 60_000_000


async def test_command_not_found(processes: Processes) -> None:
    with pytest.raises(SpawnError, match="cannot start 'no-such-program': No such file"):
        await run(processes, "no-such-program")
    with pytest.raises(SpawnError, match="cannot start '/etc/passwd': Permission denied"):
        await run(processes, "/etc/passwd")


async def test_directory_missing(processes: Processes) -> None:
    with pytest.raises(SpawnError, match="cannot enter directory '/no/such/place': No such file"):
        await run(processes, "true", cwd="/no/such/place")


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["a\0b"], {}),
        (["true"], {"env": {"A=": "1"}}),
        ([], {}),
        (["true"], {"extra_fds": (1,)}),
        (["true"], {"extra_fds": (9999,)}),
    ],
)
async def test_bad_request_is_refused_and_the_next_runs(
    processes: Processes, argv: list[str], options: dict[str, object]
) -> None:
    with pytest.raises(SpawnError):
        await run(processes, *argv, **options)
    assert (await run(processes, "true"))[0].code == 0


async def test_hundred_at_once(processes: Processes) -> None:
    results = await asyncio.gather(*(run(processes, "sh", "-c", f"echo {i}; exit {i}") for i in range(100)))
    assert [(exit.code, output.streams[1]) for exit, output in results] == [(i, b"%d\n" % i) for i in range(100)]


async def test_wait_may_be_cancelled_and_repeated(processes: Processes) -> None:
    process = await processes.spawn(["sleep", "1000"], env=ENV)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    process.stop()
    process.stop()
    first = await process.wait()
    process.stop()
    assert await process.wait() == first
    assert (first.code, first.signal) == (None, signal.SIGTERM)


async def test_cancelled_spawn_leaves_nothing(processes: Processes) -> None:
    for delay in range(8):
        task = asyncio.create_task(processes.spawn(["sleep", "1000"], env=ENV, on_output=Output()))
        await asyncio.sleep(delay / 2000)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result().stop(0)
    await until(lambda: not processes._live)


async def test_close_stops_everything_and_refuses_more() -> None:
    processes = Processes()
    started: list[Process] = [await processes.spawn(["sleep", "1000"], env=ENV) for _ in range(3)]
    await processes.close()
    assert [(await process.wait()).signal for process in started] == [signal.SIGTERM] * 3
    with pytest.raises(SpawnError, match="closed"):
        await processes.spawn(["true"], env=ENV)
    await processes.close()


async def test_killed_zygote_disturbs_nobody_and_is_replaced(processes: Processes) -> None:
    process = await processes.spawn(["sh", "-c", "sleep 0.2; exit 4"], env=ENV)
    first = zygote(processes)
    os.kill(first, signal.SIGKILL)
    assert (await run(processes, "true"))[0].code == 0  # at once, noticed or not
    assert zygote(processes) != first
    assert (await process.wait()).code == 4


async def test_zygote_killed_under_load(processes: Processes) -> None:
    runs = [asyncio.create_task(run(processes, "sh", "-c", f"exit {i}")) for i in range(40)]
    for _ in range(3):
        await asyncio.sleep(0.02)
        os.kill(zygote(processes), signal.SIGKILL)
    assert [(await task)[0].code for task in runs] == list(range(40))


async def test_no_descriptor_is_left(processes: Processes) -> None:
    async def some(count: int) -> None:
        for _ in range(count // 20):
            await asyncio.gather(*(run(processes, "true") for _ in range(18)))
            for argv in (["no-such-program"], ["a\0"]):
                with pytest.raises(SpawnError):
                    await run(processes, *argv)

        await until(lambda: not processes._live)

    await some(20)
    gc.collect()  # what earlier tests left to it must not be counted
    before = len(os.listdir("/proc/self/fd"))
    await some(200)
    assert len(os.listdir("/proc/self/fd")) <= before
    await until(lambda: len(os.listdir(f"/proc/{zygote(processes)}/fd")) <= 7)


def test_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with Processes() as processes:
            exit, output = await run(processes, "sh", "-c", "head -c 1000000 /dev/zero; exit 5")
            assert (exit.code, len(output.streams[1])) == (5, 1_000_000)
            await asyncio.gather(*(run(processes, "true", "x" * 100_000, "y" * 100_000) for _ in range(20)))
            process = await processes.spawn(["sleep", "1000"], env=ENV)
            process.stop(0)
            assert (await process.wait()).signal in (signal.SIGTERM, signal.SIGKILL)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_zygote_that_hangs_cannot_hold_up_close() -> None:
    processes = Processes()
    os.kill(zygote(processes), signal.SIGSTOP)
    await asyncio.wait_for(processes.close(), 5)
