"""Virtual time."""

import asyncio
import threading
import time
from typing import Any

import pytest

from skep.testing.time import START_MS, VirtualLoop


def test_time_jumps_to_the_next_timer() -> None:
    loop = VirtualLoop(10)
    told: list[Any] = []

    async def tell(name: str, *delays: float) -> None:
        for delay in delays:
            await asyncio.sleep(delay)
            told.append((name, loop.time(), loop.now_ms() - START_MS))

    async def main() -> None:
        await asyncio.gather(tell("a", 3_600, 3_600), tell("b", 86_400), tell("c", 0, 0.5))

    began = time.monotonic()
    loop.play(main())
    assert time.monotonic() - began < 5
    assert told == [
        ("c", 0, 0),
        ("c", 0.5, 500),
        ("a", 3_600, 3_600_000),
        ("a", 7_200, 7_200_000),
        ("b", 86_400, 86_400_000),
    ]
    assert loop.is_closed()


def test_time_limits_of_asyncio_are_virtual() -> None:
    async def main() -> None:
        async with asyncio.timeout(86_400):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        VirtualLoop(10).play(main())


def test_time_does_not_jump_while_a_thread_works() -> None:
    loop = VirtualLoop(10)
    ticked = threading.Event()

    def work() -> str:
        assert ticked.wait(5)
        return "done"

    async def main() -> tuple[str, float]:
        loop.call_later(0.01, ticked.set)
        async with asyncio.timeout(30):
            return await asyncio.to_thread(work), loop.time()

    result, at = loop.play(main())
    assert result == "done"
    assert 0.01 <= at < 10


def test_nor_while_a_socket_is_awaited() -> None:
    async def main() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1") as server, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

    assert VirtualLoop(10).play(main()) == b"hello\n"


def test_what_turns_in_circles_is_ended() -> None:
    async def main() -> None:
        for _ in range(10**9):
            await asyncio.sleep(1e-6)

    with pytest.raises(TimeoutError, match=r"not at its end after 0.05 real seconds"):
        VirtualLoop(0.05).play(main())


def test_what_waits_for_nothing_is_ended() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="real seconds"):
        VirtualLoop(0.05).play(main())


def test_what_is_left_is_ended_though_it_resists() -> None:
    told: list[str] = []

    async def stay() -> None:
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                told.append("no")

    async def main() -> None:
        asyncio.get_running_loop().create_task(stay())
        await asyncio.sleep(1)

    loop = VirtualLoop(10)
    loop.play(main())
    assert told == ["no"]
    assert loop.is_closed()
